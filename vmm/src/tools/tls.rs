//! `--object tls-creds-x509,…`: credentials that `--tls-creds` and `tls-creds=` refer to by name.
use crate::spec::keyval::Options;
use serde_json::Value;
use spindle_block::nodes::nbd::{Credentials, Endpoint};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

/// Those of this process: a command line has one set.
static CREDENTIALS: RwLock<BTreeMap<String, Credentials>> = RwLock::new(BTreeMap::new());

/// Whether objects of this type are credentials.
pub fn is_credentials(kind: &str) -> bool {
    kind.starts_with("tls-creds-")
}

/// Takes the object of the options, whose `qom-type` is credentials.
///
/// # Errors
///
/// QEMU's sentence about options that do not fit, or files that cannot be used.
pub fn add(id: &str, options: &Options) -> Result<(), String> {
    let credentials = load(options)?;
    let mut known = CREDENTIALS.write().unwrap_or_else(PoisonError::into_inner);
    if known.insert(id.to_owned(), credentials).is_some() {
        return Err(format!(
            "attempt to add duplicate property '{id}' to object (type 'container')"
        ));
    }
    Ok(())
}

fn load(options: &Options) -> Result<Credentials, String> {
    let of = |key: &str| options.get(key).and_then(Value::as_str);
    let kind = of("qom-type").unwrap_or_default();
    if kind != "tls-creds-x509" {
        return Err(format!("'{kind}' is not supported: TLS is had with tls-creds-x509"));
    }
    for key in options.keys() {
        match key.as_str() {
            "qom-type" | "id" | "dir" | "endpoint" | "verify-peer" | "sanity-check" => {}
            "priority" | "passwordid" => {
                return Err(format!("tls-creds-x509 with '{key}' is not supported"));
            }
            other => return Err(format!("Parameter '{other}' is unexpected")),
        }
    }
    let endpoint = match of("endpoint") {
        Some("server") => Endpoint::Server,
        None | Some("client") => Endpoint::Client,
        Some(other) => {
            return Err(format!("Parameter 'endpoint' does not accept value '{other}'"));
        }
    };
    let verify = switch(options, "verify-peer")?;
    switch(options, "sanity-check")?;
    let dir = of("dir").ok_or("Missing 'dir' property value")?;
    Credentials::x509(Path::new(dir), endpoint, verify)
}

/// A switch that is on where nothing is said.
fn switch(options: &Options, key: &str) -> Result<bool, String> {
    match options.get(key) {
        None | Some(Value::Bool(true)) => Ok(true),
        Some(Value::Bool(false)) => Ok(false),
        Some(Value::String(text)) if matches!(text.as_str(), "on" | "yes" | "true" | "y") => {
            Ok(true)
        }
        Some(Value::String(text)) if matches!(text.as_str(), "off" | "no" | "false" | "n") => {
            Ok(false)
        }
        Some(_) => Err(format!("Parameter '{key}' expects 'on' or 'off'")),
    }
}

/// The credentials called `id`, which have to be an `endpoint`'s.
///
/// # Errors
///
/// QEMU's sentence about those that there are not, and others.
pub fn get(id: &str, endpoint: Endpoint) -> Result<Credentials, String> {
    let known = CREDENTIALS.read().unwrap_or_else(PoisonError::into_inner);
    match known.get(id) {
        Some(found) if found.endpoint() == endpoint => Ok(found.clone()),
        Some(_) => {
            let whose = if endpoint == Endpoint::Server { "server" } else { "client" };
            Err(format!("Expecting TLS credentials with a {whose} endpoint"))
        }
        None if super::object::secret(id).is_ok() => {
            Err(format!("Object with id '{id}' is not TLS credentials"))
        }
        None => Err(format!("No TLS credentials with id '{id}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_are_no_credentials_is_refused() {
        for (options, part) in [
            (json!({"qom-type": "tls-creds-anon"}), "'tls-creds-anon' is not supported"),
            (json!({"qom-type": "tls-creds-x509"}), "Missing 'dir'"),
            (json!({"qom-type": "tls-creds-x509", "zz": "1"}), "'zz' is unexpected"),
            (json!({"qom-type": "tls-creds-x509", "endpoint": "x"}), "does not accept value 'x'"),
            (json!({"qom-type": "tls-creds-x509", "verify-peer": "x"}), "expects 'on' or 'off'"),
            (json!({"qom-type": "tls-creds-x509", "dir": "/nonexistent"}), "ca-cert.pem: No such"),
        ] {
            let Value::Object(options) = options else { unreachable!() };
            let error = add("x", &options).unwrap_err();
            assert!(error.contains(part), "{options:?}: {error}");
        }
        let error = get("x", Endpoint::Client).unwrap_err();
        assert_eq!(error, "No TLS credentials with id 'x'");
    }
}
