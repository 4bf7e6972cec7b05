//! Memory policies (numa(7)), protection keys and barriers, on a machine with one node, no keys and one core a program.
use super::{
    Arguments,
    memory::{page_at, range},
};
use crate::context::{Context, Result, Stop};
use shimos_abi::{addr::PAGE, errno::Errno, ids::Pid};
use shimos_hal::Machine;

const DEFAULT: u64 = 0;
const PREFERRED: u64 = 1;
const BIND: u64 = 2;
const INTERLEAVE: u64 = 3;
const LOCAL: u64 = 4;
const PREFERRED_MANY: u64 = 5;
const STATIC_NODES: u64 = 1 << 15;
const RELATIVE_NODES: u64 = 1 << 14;
const BALANCING: u64 = 1 << 13;

/// Reads a set of nodes; whether node 0, the only one, is in it. `EINVAL` where a node is that cannot be.
fn read_nodes<M: Machine>(c: &mut Context<'_, M>, addr: u64, most: u64) -> Result<Nodes> {
    // The number of bits counts one too many, since ever.
    let bits = most.saturating_sub(1);
    if most == 0 || bits == 0 || addr == 0 {
        return Ok(Nodes::None);
    }
    if bits > PAGE as u64 * 8 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = c.read_bytes(addr, bits.div_ceil(64) as usize * 8)?;
    let set = |bit: u64| bytes.get((bit / 8) as usize).is_some_and(|byte| byte >> (bit % 8) & 1 == 1);
    if (1024..bits).any(set) {
        return Err(Errno::EINVAL.into());
    }
    let others = (1..bits.min(1024)).any(set);
    Ok(match (bits > 0 && set(0), others) {
        (true, _) => Nodes::Zero,
        (false, true) => Nodes::Absent,
        (false, false) => Nodes::None,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nodes {
    /// None is named.
    None,
    /// The one that there is, with or without others.
    Zero,
    /// Only such as there are none.
    Absent,
}

/// A policy that is wanted, checked: all memory comes from the one node, whatever it says.
fn check_policy<M: Machine>(c: &mut Context<'_, M>, mode: u64, addr: u64, most: u64) -> Result<u64> {
    let flags = mode & (STATIC_NODES | RELATIVE_NODES | BALANCING);
    let kind = mode & !flags;
    if kind > PREFERRED_MANY || flags & (STATIC_NODES | RELATIVE_NODES) == STATIC_NODES | RELATIVE_NODES {
        return Err(Errno::EINVAL.into());
    }
    if flags & BALANCING != 0 && kind != BIND {
        return Err(Errno::EINVAL.into());
    }
    let nodes = read_nodes(c, addr, most)?;
    let fits = match kind {
        DEFAULT => nodes == Nodes::None && flags == 0,
        LOCAL => nodes == Nodes::None && flags & (STATIC_NODES | RELATIVE_NODES) == 0,
        PREFERRED => nodes != Nodes::Absent && (nodes == Nodes::Zero || flags == 0),
        BIND | INTERLEAVE | PREFERRED_MANY => nodes == Nodes::Zero,
        _ => false,
    };
    if fits { Ok(mode) } else { Err(Errno::EINVAL.into()) }
}

pub fn set_mempolicy<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let mode = check_policy(c, a[0] as u32 as u64, a[1], a[2])?;
    c.thread()?.policy = (mode != DEFAULT).then_some(mode as u32);
    Ok(0)
}

pub fn get_mempolicy<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const NODE: u64 = 1;
    const ADDR: u64 = 2;
    const ALLOWED: u64 = 4;
    let [mode_at, nodes_at, most, addr, flags, _] = a;
    if flags & !(NODE | ADDR | ALLOWED) != 0 || nodes_at != 0 && most < 1 {
        return Err(Errno::EINVAL.into());
    }
    if flags & ALLOWED != 0 && flags & (NODE | ADDR) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & ADDR == 0 && addr != 0 {
        return Err(Errno::EINVAL.into());
    }
    let policy = u64::from(c.thread()?.policy.unwrap_or(0));
    if flags & ADDR != 0 {
        let page = shimos_abi::addr::UserAddr(addr).page().ok_or(Errno::EFAULT)?;
        let space = c.process()?.space;
        let mapped = c.resident.program.spaces.get(&space).is_some_and(|space| space.mappings().find(page).is_some());
        if !mapped {
            return Err(Errno::EFAULT.into());
        }
    } else if flags & NODE != 0 && policy & 0xff != INTERLEAVE {
        return Err(Errno::EINVAL.into());
    }
    let mode = match flags {
        ALLOWED => 0,
        flags if flags & NODE != 0 => 0,
        flags if flags & ADDR != 0 => DEFAULT,
        _ => policy,
    };
    if mode_at != 0 {
        c.write_u32(mode_at, mode as u32)?;
    }
    if nodes_at != 0 {
        let named = flags & ALLOWED != 0 || matches!(policy & 0xff, PREFERRED | BIND | INTERLEAVE | PREFERRED_MANY);
        let mut bytes = alloc::vec![0; (most.saturating_sub(1).div_ceil(64).max(1) as usize * 8).min(PAGE)];
        if let Some(first) = bytes.first_mut() {
            *first = u8::from(named);
        }
        c.write_bytes(nodes_at, &bytes)?;
    }
    Ok(0)
}

pub fn mbind<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const STRICT: u64 = 1;
    const MOVE: u64 = 2;
    const MOVE_ALL: u64 = 4;
    let [addr, len, mode, nodes, most, flags] = a;
    if flags & !(STRICT | MOVE | MOVE_ALL) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & MOVE_ALL != 0 && c.process()?.credentials.euid != 0 {
        return Err(Errno::EPERM.into());
    }
    check_policy(c, mode as u32 as u64, nodes, most)?;
    page_at(addr).map_err(|_| Errno::EINVAL)?;
    if len == 0 {
        return Ok(0);
    }
    let (first, end) = range(addr, len).map_err(|_| Errno::EINVAL)?;
    let space = c.process()?.space;
    let covered = c.resident.program.spaces.get(&space).is_some_and(|space| space.mappings().covers(first, end));
    if covered { Ok(0) } else { Err(Errno::EFAULT.into()) }
}

/// set_mempolicy_home_node(2).
pub fn set_mempolicy_home_node<M: Machine>(_: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    // Only what mbind(2) has bound has a home, and nothing is bound to one of several nodes here.
    page_at(a[0]).map_err(|_| Errno::EINVAL)?;
    if a[3] != 0 || a[2] != 0 {
        return Err(Errno::EINVAL.into());
    }
    Err(Errno::EOPNOTSUPP.into())
}

/// migrate_pages(2): from the one node to itself.
pub fn migrate_pages<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    let [pid, most, old, new, ..] = a;
    if pid as u32 != 0 {
        c.process_by(Pid(pid as u32))?;
    }
    read_nodes(c, old, most)?;
    match read_nodes(c, new, most)? {
        Nodes::Zero => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// move_pages(2): tells that all pages that are in memory are on node 0, and moves them nowhere else.
pub fn move_pages<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const MOVE: u64 = 2;
    const MOVE_ALL: u64 = 4;
    const MOST: u64 = 1 << 16;
    let [pid, count, pages, nodes, status, flags] = a;
    if flags & !(MOVE | MOVE_ALL) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let root = c.process()?.credentials.euid == 0;
    if flags & MOVE_ALL != 0 && !root {
        return Err(Errno::EPERM.into());
    }
    if count > MOST {
        return Err(Errno::E2BIG.into());
    }
    let space = if pid as u32 == 0 { c.process()?.space } else { c.process_by(Pid(pid as u32))?.space };
    for index in 0..count {
        if nodes != 0 {
            match c.read_u32(nodes.wrapping_add(index * 4))? {
                0 => {}
                node if node < 1024 => return Err(Errno::ENODEV.into()),
                _ => return Err(Errno::ENODEV.into()),
            }
        }
        let addr = c.read_u64(pages.wrapping_add(index * 8))?;
        let page = shimos_abi::addr::UserAddr(addr).page();
        let space = c.resident.program.spaces.get(&space).ok_or(Stop::Gone)?;
        let outcome = match page.filter(|page| space.mappings().find(*page).is_some()) {
            None => -i32::from(Errno::EFAULT.0 as i16),
            Some(page) if space.presence(page).is_none() => -i32::from(Errno::ENOENT.0 as i16),
            Some(_) => 0,
        };
        c.write_u32(status.wrapping_add(index * 4), outcome as u32)?;
    }
    Ok(0)
}

/// pkey_alloc(2): the machine shows programs no protection keys.
pub fn pkey_alloc<M: Machine>(_: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[0] != 0 || a[1] & !3 != 0 {
        return Err(Errno::EINVAL.into());
    }
    Err(Errno::ENOSPC.into())
}

pub fn pkey_free<M: Machine>(_: &mut Context<'_, M>, _: Arguments) -> Result<u64> {
    Err(Errno::EINVAL.into())
}

/// pkey_mprotect(2): without a key it is mprotect(2).
pub fn pkey_mprotect<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    if a[3] as u32 as i32 == -1 { super::memory::mprotect(c, a) } else { Err(Errno::EINVAL.into()) }
}

/// membarrier(2): threads of a program share one core, and whoever runs next sees all that came before.
pub fn membarrier<M: Machine>(c: &mut Context<'_, M>, a: Arguments) -> Result<u64> {
    const QUERY: u64 = 0;
    const GLOBAL: u64 = 1;
    const GLOBAL_EXPEDITED: u64 = 2;
    const REGISTER_GLOBAL: u64 = 4;
    const PRIVATE: u64 = 8;
    const REGISTER_PRIVATE: u64 = 16;
    const CORE: u64 = 32;
    const REGISTER_CORE: u64 = 64;
    if a[1] as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = c.process_mut()?;
    match a[0] as u32 as u64 {
        QUERY => Ok(GLOBAL | GLOBAL_EXPEDITED | REGISTER_GLOBAL | PRIVATE | REGISTER_PRIVATE | CORE | REGISTER_CORE),
        GLOBAL | GLOBAL_EXPEDITED => Ok(0),
        command @ (REGISTER_GLOBAL | REGISTER_PRIVATE | REGISTER_CORE) => {
            process.barriers = Some(process.barriers.unwrap_or(0) | command as u32);
            Ok(0)
        }
        command @ (PRIVATE | CORE) => {
            let registered = process.barriers.is_some_and(|barriers| u64::from(barriers) & command << 1 != 0);
            if registered { Ok(0) } else { Err(Errno::EPERM.into()) }
        }
        _ => Err(Errno::EINVAL.into()),
    }
}
