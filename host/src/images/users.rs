//! Users by name: what an image's `/etc/passwd` and `/etc/group` say.
use anyhow::{Result, bail};
use shimos_abi::control::User;

/// Supplementary groups that are looked at.
const MAX_GROUPS: usize = 64;

/// Finds a user: `NAME`, `UID`, and behind a colon a group by name or number. An empty text is root.
///
/// As with Docker: a number needs no entry; without one its group is 0. With a group given there are no further groups.
pub fn find(wanted: &str, passwd: &str, group: &str) -> Result<User> {
    let (name, wanted_group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = number(name);
    let entry = passwd
        .lines()
        .filter_map(Entry::parse)
        .find(|entry| entry.name == name)
        .or_else(|| passwd.lines().filter_map(Entry::parse).find(|entry| Some(entry.id) == number));
    let (uid, gid) = match (&entry, number) {
        (Some(entry), _) => (entry.id, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => bail!("the image has no user '{name}'; give a number"),
    };
    if let Some(wanted) = wanted_group {
        let found = group.lines().filter_map(Group::parse).find(|group| group.name == wanted).map(|group| group.id);
        let Some(gid) = found.or(self::number(wanted)) else {
            bail!("the image has no group '{wanted}'; give a number");
        };
        return Ok(User { uid, gid, groups: Vec::new() });
    }
    let mut groups: Vec<u32> = Vec::new();
    if let Some(entry) = entry {
        let of_user = group.lines().filter_map(Group::parse).filter(|group| group.members.contains(&entry.name));
        groups = of_user.map(|group| group.id).filter(|id| *id != gid).take(MAX_GROUPS).collect();
        groups.sort_unstable();
        groups.dedup();
    }
    Ok(User { uid, gid, groups })
}

fn number(text: &str) -> Option<u32> {
    // -1 means "no change" to the calls that take ids.
    text.parse().ok().filter(|id| *id != u32::MAX)
}

struct Entry<'a> {
    name: &'a str,
    id: u32,
    gid: u32,
}

impl Entry<'_> {
    fn parse(line: &str) -> Option<Entry<'_>> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let id = number(fields.nth(1)?)?;
        Some(Entry { name, id, gid: number(fields.next()?)? })
    }
}

struct Group<'a> {
    name: &'a str,
    id: u32,
    members: Vec<&'a str>,
}

impl Group<'_> {
    fn parse(line: &str) -> Option<Group<'_>> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let id = number(fields.nth(1)?)?;
        Some(Group { name, id, members: fields.next().unwrap_or_default().trim().split(',').collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:34:w:/:/bin/sh\n7:x:70:71::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:web\nlog:x:4:root,web\ndisk:x:6:web\nodd\n";

    #[test]
    fn names_and_numbers_are_found_as_docker_does() {
        let find = |wanted| find(wanted, PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups)).ok();
        assert_eq!(find(""), Some((0, 0, vec![4])));
        assert_eq!(find("web"), Some((33, 34, vec![4, 6])));
        assert_eq!(find("33"), Some((33, 34, vec![4, 6])));
        assert_eq!(find("7"), Some((70, 71, vec![])), "a name that looks like a number is a name");
        assert_eq!(find("1000"), Some((1000, 0, vec![])));
        assert_eq!(find("web:log"), Some((33, 4, vec![])));
        assert_eq!(find("1000:1001"), Some((1000, 1001, vec![])));
        assert_eq!(find(":log"), Some((0, 4, vec![])));
        for wrong in ["nobody", "web:nogroup", "4294967295", "4294967296", "-1", "web:-1"] {
            assert_eq!(find(wrong), None, "{wrong}");
        }
    }
}
