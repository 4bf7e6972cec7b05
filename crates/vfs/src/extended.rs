//! Extended attributes: names with values that a file of the writable layer carries (xattr(7)).
//!
//! Attributes of the kinds `user` and `trusted` mean nothing to the kernel and are kept. Others would ask for something to
//! be done (access lists, capabilities of files), and are refused.
use crate::{
    access::{Actor, Want},
    fault::{Fault, Sources},
    node::{Attribute, Kind, Metadata, Node, NodeId},
    tree::Tree,
};
use alloc::vec::Vec;
use shimos_abi::errno::Errno;

/// The longest name.
const NAME_MAX: usize = 255;
/// The largest value.
const VALUE_MAX: usize = 65536;
/// Bytes of all names and values of one file.
const ROOM: usize = 2 * VALUE_MAX;
const STICKY: u16 = 0o1000;

/// What setting an attribute does where there is one of that name, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// Whatever is there.
    Any,
    /// EEXIST if it is there (XATTR_CREATE).
    No,
    /// ENODATA if it is not (XATTR_REPLACE).
    Only,
}

/// Kinds of attributes that are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    User,
    Trusted,
}

/// The kind of a name: EOPNOTSUPP where attributes of that kind are not kept.
fn class_of(name: &[u8]) -> Result<Class, Errno> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Errno::ERANGE);
    }
    let (class, rest) = match name {
        [b'u', b's', b'e', b'r', b'.', rest @ ..] => (Class::User, rest),
        [b't', b'r', b'u', b's', b't', b'e', b'd', b'.', rest @ ..] => (Class::Trusted, rest),
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if rest.is_empty() { Err(Errno::EINVAL) } else { Ok(class) }
}

impl Node {
    /// Whether its attributes are such as could be set.
    pub(crate) fn attributes_fit(&self) -> bool {
        self.attributes.iter().all(|a| class_of(&a.name).is_ok() && a.value.len() <= VALUE_MAX)
            && self.attributes.iter().map(Attribute::room).sum::<usize>() <= ROOM
    }
}

impl Attribute {
    fn room(&self) -> usize {
        self.name.len() + self.value.len()
    }
}

impl Tree {
    fn attributes(&self, node: NodeId) -> Result<&[Attribute], Errno> {
        match self.canonical(node) {
            NodeId::Upper(id) => Ok(&self.node(id)?.attributes),
            NodeId::Lower(_) => Ok(&[]),
            NodeId::Synthetic { .. } => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Whether `actor` may look at or change attributes of this name.
    fn check_attribute(
        &self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        node: NodeId,
        name: &[u8],
        want: Want,
    ) -> Result<(), Fault> {
        let class = class_of(name)?;
        let metadata = self.metadata(sources, node)?;
        let Metadata { kind, mode, uid, .. } = metadata;
        let who = actor.credentials;
        let refusal = if want == Want::WRITE { Errno::EPERM } else { Errno::ENODATA };
        match class {
            Class::Trusted if who.is_root() => Ok(()),
            Class::Trusted => Err(refusal.into()),
            Class::User if !matches!(kind, Kind::Regular | Kind::Directory) => Err(refusal.into()),
            Class::User if kind == Kind::Directory && mode & STICKY != 0 && want == Want::WRITE => {
                if who.is_root() || who.uid == uid { Ok(()) } else { Err(Errno::EPERM.into()) }
            }
            Class::User => Ok(who.check(&metadata, want)?),
        }
    }

    /// The value of an attribute (getxattr(2)). ENODATA if there is none.
    pub fn attribute(
        &self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        node: NodeId,
        name: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        let attributes = self.attributes(node)?;
        self.check_attribute(sources, actor, node, name, Want::READ)?;
        let found = attributes.iter().find(|attribute| attribute.name == name);
        Ok(found.map(|attribute| attribute.value.clone()).ok_or(Errno::ENODATA)?)
    }

    /// The names of the attributes that `actor` may know of, each with a zero behind it (listxattr(2)).
    pub fn attribute_names(&self, actor: &Actor<'_>, node: NodeId) -> Result<Vec<u8>, Errno> {
        let trusted = actor.credentials.is_root();
        let seen = |attribute: &&Attribute| trusted || class_of(&attribute.name) == Ok(Class::User);
        let mut names = Vec::new();
        for attribute in self.attributes(node)?.iter().filter(seen) {
            names.extend_from_slice(&attribute.name);
            names.push(0);
        }
        Ok(names)
    }

    /// Sets an attribute (setxattr(2)).
    pub fn set_attribute(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        node: NodeId,
        (name, value): (&[u8], &[u8]),
        replace: Replace,
    ) -> Result<(), Fault> {
        let old = self.attributes(node)?;
        self.check_attribute(sources, actor, node, name, Want::WRITE)?;
        let known = old.iter().find(|attribute| attribute.name == name).map(Attribute::room);
        match (replace, known) {
            (Replace::No, Some(_)) => return Err(Errno::EEXIST.into()),
            (Replace::Only, None) => return Err(Errno::ENODATA.into()),
            _ => {}
        }
        if value.len() > VALUE_MAX {
            return Err(Errno::E2BIG.into());
        }
        let others = old.iter().map(Attribute::room).sum::<usize>().saturating_sub(known.unwrap_or(0));
        if others + name.len() + value.len() > ROOM {
            return Err(Errno::ENOSPC.into());
        }
        let id = self.copy_up(sources, node)?;
        let file = self.node_mut(id)?;
        match file.attributes.iter_mut().find(|attribute| attribute.name == name) {
            Some(attribute) => attribute.value = value.to_vec(),
            None => file.attributes.push(Attribute { name: name.to_vec(), value: value.to_vec() }),
        }
        file.ctime = actor.now;
        Ok(())
    }

    /// Takes an attribute away (removexattr(2)). ENODATA if there is none.
    pub fn remove_attribute(
        &mut self,
        sources: &mut Sources<'_>,
        actor: &Actor<'_>,
        node: NodeId,
        name: &[u8],
    ) -> Result<(), Fault> {
        let known = self.attributes(node)?.iter().any(|attribute| attribute.name == name);
        self.check_attribute(sources, actor, node, name, Want::WRITE)?;
        if !known {
            return Err(Errno::ENODATA.into());
        }
        let id = self.copy_up(sources, node)?;
        let file = self.node_mut(id)?;
        file.attributes.retain(|attribute| attribute.name != name);
        file.ctime = actor.now;
        Ok(())
    }
}
