//! Cases that use one machine after another.
use crate::{
    rig::Rig,
    suite::{Outcome, Suite},
};
use anyhow::{Context, Result};
use shimos::machine::Options;

/// Cases that share one machine; after a failure the next case gets a new one.
pub struct Group<'a> {
    suite: &'a mut Suite,
    options: Options,
    rig: Option<Rig>,
}

impl<'a> Group<'a> {
    /// A group whose machine is booted when its first case is run.
    pub fn new(suite: &'a mut Suite, options: Options) -> Group<'a> {
        Group { suite, options, rig: None }
    }

    /// Runs one case, and ends what it has started.
    pub fn case(&mut self, name: &str, case: impl FnOnce(&mut Rig) -> Result<()>) {
        let (options, rig, makings) = (&self.options, &mut self.rig, self.suite.makings.clone());
        let outcome = self.suite.case(name, || {
            let rig = match rig {
                Some(rig) => rig,
                none => none.insert(Rig::boot(&makings, options.clone()).context("no machine")?),
            };
            case(rig).and_then(|()| rig.tidy()).map_err(|error| rig.explain(error))
        });
        if outcome == Outcome::Failed {
            self.rig = None;
        }
    }
}
