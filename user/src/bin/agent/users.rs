//! Users and groups by name or number, from /etc/passwd and /etc/group.
use std::{fs, io};

/// Whose rights a command gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// Home directory, if it is known.
    pub home: Option<String>,
}

/// Looks up `USER` or `USER:GROUP`.
pub fn find(wanted: &str) -> io::Result<Identity> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    within(wanted, &read("/etc/passwd"), &read("/etc/group"))
        .map_err(|what| io::Error::new(io::ErrorKind::NotFound, what))
}

fn within(wanted: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    let entry = passwd.lines().map(fields).find(|entry| entry.first() == Some(&user) || entry.get(2) == Some(&user));
    let number = |text: Option<&&str>| text.and_then(|text| text.parse::<u32>().ok());
    let uid = match &entry {
        Some(entry) => number(entry.get(2)),
        None => user.parse().ok(),
    };
    let uid = uid.ok_or_else(|| format!("there is no user '{user}' inside"))?;
    let groups = group.lines().map(fields);
    let gid = match wanted_group {
        None => entry.as_ref().and_then(|entry| number(entry.get(3))).unwrap_or(0),
        Some(name) => groups
            .clone()
            .find(|entry| entry.first() == Some(&name))
            .and_then(|entry| number(entry.get(2)))
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("there is no group '{name}' inside"))?,
    };
    let mut all = vec![gid];
    if let Some(name) = entry.as_ref().and_then(|entry| entry.first()) {
        let member = |entry: &Vec<&str>| entry.get(3).is_some_and(|members| members.split(',').any(|m| m == *name));
        all.extend(groups.filter(member).filter_map(|entry| number(entry.get(2))));
    }
    all.sort_unstable();
    all.dedup();
    let home = entry.as_ref().and_then(|entry| entry.get(5)).map(|home| home.to_string());
    Ok(Identity { uid, gid, groups: all, home })
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nwww-data:x:33:33:www:/var/www:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\nadm:x:4:syslog,www-data\nodd:x\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let www = Identity { uid: 33, gid: 33, groups: vec![4, 33], home: Some("/var/www".to_string()) };
        assert_eq!(within("www-data", PASSWD, GROUP), Ok(www.clone()));
        assert_eq!(within("33", PASSWD, GROUP), Ok(www));
        let other = within("www-data:adm", PASSWD, GROUP).expect("known");
        assert_eq!((other.gid, other.groups), (4, vec![4]));
        let stranger = Identity { uid: 1000, gid: 0, groups: vec![0], home: None };
        assert_eq!(within("1000", PASSWD, GROUP), Ok(stranger));
        assert_eq!(within("1000:7", "", "").map(|identity| identity.gid), Ok(7));
    }

    #[test]
    fn who_is_not_there_is_not_found() {
        for wrong in ["nobody", "broken", "", "root:none", "root:odd", "-1", "4294967296"] {
            assert!(within(wrong, PASSWD, GROUP).is_err(), "{wrong}");
        }
    }
}
