//! What an image says about the program to run in it.
use serde_json::{Value, json};

/// An image's configuration, as its maker wrote it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments behind them, unless the user gives others; the program too, where there is no entry point.
    pub cmd: Vec<String>,
    /// The environment, `NAME=VALUE` each.
    pub env: Vec<String>,
    /// The working directory; empty for `/`.
    pub workdir: String,
    /// The user: a name or number, and a group behind a colon; empty for root.
    pub user: String,
}

impl Config {
    /// The command to run: the user's arguments take the place of `cmd`.
    pub fn command(&self, given: &[String]) -> Vec<String> {
        let more = if given.is_empty() { &self.cmd } else { given };
        self.entrypoint.iter().chain(more).cloned().collect()
    }

    /// The working directory.
    pub fn directory(&self) -> &str {
        if self.workdir.is_empty() { "/" } else { &self.workdir }
    }

    /// As JSON, the way it is kept.
    pub fn to_json(&self) -> Value {
        json!({
            "entrypoint": self.entrypoint,
            "cmd": self.cmd,
            "env": self.env,
            "workdir": self.workdir,
            "user": self.user,
        })
    }

    /// From JSON as it is kept.
    pub fn from_json(value: &Value) -> Config {
        Config {
            entrypoint: strings(value.get("entrypoint")),
            cmd: strings(value.get("cmd")),
            env: strings(value.get("env")),
            workdir: text(value.get("workdir")),
            user: text(value.get("user")),
        }
    }

    /// From the `config` object of an image of Docker or OCI.
    pub fn from_oci(value: &Value) -> Config {
        Config {
            entrypoint: strings(value.get("Entrypoint")),
            cmd: strings(value.get("Cmd")),
            env: strings(value.get("Env")),
            workdir: text(value.get("WorkingDir")),
            user: text(value.get("User")),
        }
    }
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_string()
}

/// A list of strings; a single string is a list of one.
fn strings(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => all.iter().filter_map(|item| item.as_str().map(str::to_string)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_take_the_place_of_cmd() {
        let value = json!({ "Entrypoint": ["/bin/tool", "-v"], "Cmd": ["serve"], "WorkingDir": "/srv", "User": "web",
                            "Env": ["A=1"] });
        let config = Config::from_oci(&value);
        assert_eq!(config.command(&[]), ["/bin/tool", "-v", "serve"]);
        assert_eq!(config.command(&["stop".to_string()]), ["/bin/tool", "-v", "stop"]);
        assert_eq!(Config::from_json(&config.to_json()), config);
        let none = Config::from_oci(&json!({ "Entrypoint": null, "Cmd": "sh" }));
        assert_eq!((none.command(&[]), none.directory()), (vec!["sh".to_string()], "/"));
    }
}
