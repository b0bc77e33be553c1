//! Images that a server has: `nbd://…`, `nbd+unix://…`, `nbd:…`, and `driver=nbd` with its options.
use super::image::OpenMode;
use super::source::Bottom;
use crate::spec::keyval::Options;
use crate::tools::tls;
use serde_json::Value;
use spindle_block::Node;
use spindle_block::nodes::nbd::{Endpoint, NbdNode, Secure, Server};
use std::path::PathBuf;
use std::sync::Arc;

/// The port of NBD.
const PORT: u16 = 10809;

/// What a name says, as options of the driver; `None`: it is no server's.
///
/// # Errors
///
/// A name that begins like one, and is none.
pub(super) fn tree(name: &str) -> Option<Result<Options, String>> {
    let parsed = match name.split_once("://") {
        Some(("nbd" | "nbd+tcp", rest)) => tcp(rest),
        Some(("nbd+unix", rest)) => unix(rest),
        _ => short(name.strip_prefix("nbd:")?),
    };
    Some(parsed.map(|(server, export)| options(&server, &export)))
}

fn options(server: &Server, export: &str) -> Options {
    let pairs: &[(&str, String)] = &match server {
        Server::Unix(path) => {
            vec![("type", "unix".to_owned()), ("path", path.to_string_lossy().into_owned())]
        }
        Server::Tcp { host, port } => {
            vec![("type", "inet".to_owned()), ("host", host.clone()), ("port", port.to_string())]
        }
    };
    let server = pairs.iter().map(|(k, v)| ((*k).to_owned(), Value::from(v.as_str()))).collect();
    let mut tree = Options::new();
    tree.insert("driver".to_owned(), "nbd".into());
    tree.insert("server".to_owned(), Value::Object(server));
    if !export.is_empty() {
        tree.insert("export".to_owned(), export.into());
    }
    tree
}

/// `%41` is `A`.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "Invalid URI".to_owned();
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok()).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// Host and port; IPv6 addresses are in brackets.
fn host_port(text: &str) -> Result<Server, String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None | Some("") => PORT,
        Some(port) => port.parse().map_err(|_| format!("Invalid port '{port}'"))?,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(Server::Tcp { host: host.to_owned(), port })
}

fn tcp(rest: &str) -> Result<(Server, String), String> {
    let (place, export) = rest.split_once('/').unwrap_or((rest, ""));
    if export.contains('?') || place.contains('?') {
        return Err("unexpected query parameters in an nbd:// URI".to_owned());
    }
    Ok((host_port(place)?, decoded(export)?))
}

fn unix(rest: &str) -> Result<(Server, String), String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let Some(export) = place.strip_prefix('/').or(place.is_empty().then_some("")) else {
        return Err("an nbd+unix URI has no host: nbd+unix:///EXPORT?socket=PATH".to_owned());
    };
    let mut socket = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("socket", path)) if socket.is_none() => socket = Some(decoded(path)?),
            _ => return Err("an nbd+unix URI has one parameter: socket".to_owned()),
        }
    }
    let socket = socket.ok_or_else(|| "an nbd+unix URI needs ?socket=PATH".to_owned())?;
    Ok((Server::Unix(PathBuf::from(socket)), decoded(export)?))
}

/// `unix:PATH` or `HOST:PORT`, and `:exportname=NAME`.
fn short(rest: &str) -> Result<(Server, String), String> {
    let (place, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
    let server = match place.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Server::Unix(PathBuf::from(path)),
        _ if place.contains(':') => host_port(place)?,
        _ => return Err("No address given: nbd:HOST:PORT or nbd:unix:PATH".to_owned()),
    };
    Ok((server, export.to_owned()))
}

/// The name by which a server's disk is shown.
fn shown(server: &Server, export: &str) -> String {
    match server {
        Server::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
        Server::Tcp { host, port } => {
            let slash = if export.is_empty() { "" } else { "/" };
            format!("nbd://{host}:{port}{slash}{export}")
        }
    }
}

/// Opens what the options of the driver `nbd` say.
///
/// # Errors
///
/// Options that do not fit, a server that is not there or has no such export.
pub(super) fn open(mut options: Options, mode: OpenMode) -> Result<(PathBuf, Bottom), String> {
    let mut text = |key: &str| match options.remove(key) {
        Some(Value::String(text)) => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let export = text("export").unwrap_or_default();
    let (credentials, host_name) = (text("tls-creds"), text("tls-hostname"));
    let (path, host, port) = (text("path"), text("host"), text("port"));
    let server = match options.remove("server") {
        Some(Value::Object(server)) => {
            let field = |key: &str| match server.get(key) {
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Number(number)) => Some(number.to_string()),
                _ => None,
            };
            match field("type").as_deref() {
                Some("unix") => (field("path"), None, None),
                Some("inet") => (None, field("host"), field("port")),
                _ => return Err("Parameter 'server.type' is unix or inet".to_owned()),
            }
        }
        _ => (path, host, port),
    };
    if let Some(key) = options.keys().next() {
        return Err(format!("Block protocol 'nbd' doesn't support the option '{key}'"));
    }
    let server = match server {
        (Some(path), None, None) => Server::Unix(PathBuf::from(path)),
        (None, Some(host), port) => {
            let port = port.map_or(Ok(PORT), |port| port.parse());
            Server::Tcp { host, port: port.map_err(|_| "Invalid port".to_owned())? }
        }
        _ => return Err("NBD server address missing".to_owned()),
    };
    let secure = match (credentials, host_name) {
        (Some(id), host) => Some(Secure { credentials: tls::get(&id, Endpoint::Client)?, host }),
        (None, Some(_)) => return Err("tls-hostname is only supported with tls-creds".to_owned()),
        (None, None) => None,
    };
    let node: Arc<dyn Node> = NbdNode::connect(&server, &export, !mode.writable, secure.as_ref())?;
    let below = vec![Arc::clone(&node)];
    let name = PathBuf::from(shown(&server, &export));
    Ok((name, Bottom { node, host: None, fault: None, below }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_servers_are_options() {
        let of = |name: &str| match tree(name) {
            Some(Ok(tree)) => Value::Object(tree),
            Some(Err(error)) => Value::String(error),
            None => Value::Null,
        };
        let unix = json!({"type": "unix", "path": "/tmp/a b"});
        assert_eq!(
            of("nbd+unix:///x%41?socket=/tmp/a%20b"),
            json!({"driver": "nbd", "server": unix, "export": "xA"})
        );
        assert_eq!(of("nbd:unix:/tmp/a b"), json!({"driver": "nbd", "server": unix}));
        let inet = json!({"type": "inet", "host": "::1", "port": "10809"});
        assert_eq!(of("nbd://[::1]/"), json!({"driver": "nbd", "server": inet}));
        let inet = json!({"type": "inet", "host": "h", "port": "7"});
        assert_eq!(
            of("nbd:h:7:exportname=e"),
            json!({"driver": "nbd", "server": inet, "export": "e"})
        );
        assert_eq!(of("nbdfile"), Value::Null);
        assert_eq!(of("dir/nbd:x"), Value::Null);
        for (name, part) in [
            ("nbd://h:x/", "Invalid port"),
            ("nbd+unix:///x", "needs ?socket"),
            ("nbd+unix:///%4?socket=a", "Invalid URI"),
            ("nbd:h", "No address"),
        ] {
            assert!(of(name).as_str().is_some_and(|error| error.contains(part)), "{name}");
        }
    }
}
