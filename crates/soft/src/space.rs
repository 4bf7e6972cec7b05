//! Page tables of the simulated machine.
use shimos_abi::addr::{Frame, UserPage};
use shimos_hal::{FrameSource, Mapping, OutOfFrames};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

/// One address space.
#[derive(Debug)]
pub struct SoftSpace {
    /// User accesses set dirty bits through a shared reference, as the real processor does.
    pub(crate) pages: RefCell<BTreeMap<UserPage, Mapping>>,
    /// Frames that hold its tables, as on the real machine.
    pub(crate) tables: Vec<Frame>,
    nodes: BTreeSet<(u8, u64)>,
}

impl SoftSpace {
    /// What it maps.
    pub fn mappings(&self) -> Vec<(UserPage, Mapping)> {
        self.pages.borrow().iter().map(|(page, mapping)| (*page, *mapping)).collect()
    }
    /// The frames that hold its tables.
    pub fn tables(&self) -> &[Frame] {
        &self.tables
    }
    pub(crate) fn new(frames: &mut dyn FrameSource) -> Result<SoftSpace, OutOfFrames> {
        let root = frames.take().ok_or(OutOfFrames)?;
        Ok(SoftSpace { pages: RefCell::default(), tables: vec![root], nodes: BTreeSet::new() })
    }
    /// Makes sure that the tables for `page` exist. What was taken before the frames ran out stays.
    pub(crate) fn reach(&mut self, page: UserPage, frames: &mut dyn FrameSource) -> Result<(), OutOfFrames> {
        for level in [27_u8, 18, 9] {
            let node = (level, page.0 >> level);
            if !self.nodes.contains(&node) {
                self.tables.push(frames.take().ok_or(OutOfFrames)?);
                self.nodes.insert(node);
            }
        }
        Ok(())
    }
}
