//! From options to typed nodes, objects and devices.
use super::block::{self, BlockdevSpec, COMMON, INHERITED};
use super::device::{DEVICES, DeviceSpec, compat};
use super::error::SpecError;
use super::keyval::Options;
use super::names::near;
use super::object::{OBJECTS, ObjectSpec};
use super::props::{self, Kind, Mode, Table};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The deepest tree of inline children.
const DEPTH_MAX: usize = 16;

/// Makes nodes of the options of one `--blockdev` (or `blockdev-add`): inline children first,
/// each named after its parent, then the node itself.
///
/// # Errors
///
/// An unknown driver or option, or a value that does not fit.
pub fn node_from_options(options: Options, mode: Mode) -> Result<Vec<BlockdevSpec>, SpecError> {
    let mut nodes = Vec::new();
    add_node(options, mode, &mut nodes, 0)?;
    Ok(nodes)
}

fn add_node(
    mut options: Options,
    mode: Mode,
    nodes: &mut Vec<BlockdevSpec>,
    depth: usize,
) -> Result<(), SpecError> {
    const OF: &str = "--blockdev";
    if depth > DEPTH_MAX {
        return Err(SpecError::syntax(OF, format!("nodes nest deeper than {DEPTH_MAX}")));
    }
    let table = table_of(OF, "driver", &mut options, block::DRIVERS, block::DRIVER_ALIASES)?;
    inline_children(table, &mut options, mode, nodes, depth)?;
    let (common, own): (Options, Options) = split_off(options, |key| {
        COMMON.iter().any(|p| p.answers_to(key)) && !table.props.iter().any(|p| p.answers_to(key))
    });
    // A name that neither table knows is offered names from both.
    if let Some(name) = own.keys().find(|key| !table.props.iter().any(|p| p.answers_to(key))) {
        return Err(SpecError::Unknown {
            of: format!("{} '{}'", table.what, table.name),
            what: "option",
            near: near(name, COMMON.iter().chain(table.props).map(|p| p.name)),
            name: name.clone(),
        });
    }
    let mut all = props::apply(&format!("{} '{}'", table.what, table.name), COMMON, common, mode)?;
    all.extend(table.apply(own, mode)?);
    all.insert("driver".to_owned(), Value::from(table.name));
    nodes.push(typed(OF, all)?);
    Ok(())
}

/// Replaces nodes written in place by their names.
fn inline_children(
    table: &Table,
    options: &mut Options,
    mode: Mode,
    nodes: &mut Vec<BlockdevSpec>,
    depth: usize,
) -> Result<(), SpecError> {
    let parent = options.get("node-name").and_then(Value::as_str).map(str::to_owned);
    let inherited: Options = INHERITED
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), options.get(*key)?.clone())))
        .collect();
    for row in table.props.iter().filter(|p| matches!(p.kind, Kind::Id | Kind::IdOrNull)) {
        let Some(Value::Object(child)) = options.get_mut(row.name) else { continue };
        let mut child = std::mem::take(child);
        let Some(parent) = &parent else { break };
        let name = match child.get("node-name") {
            Some(Value::String(name)) => name.clone(),
            _ => format!("{parent}.{}", row.name),
        };
        child.insert("node-name".to_owned(), Value::from(name.as_str()));
        let whole = options.get("part-of").cloned().unwrap_or_else(|| Value::from(parent.as_str()));
        child.insert("part-of".to_owned(), whole);
        for (key, value) in &inherited {
            child.entry(key.as_str()).or_insert_with(|| value.clone());
        }
        if matches!(row.name, "backing" | "header") {
            child.insert("read-only".to_owned(), Value::Bool(true));
        }
        options.insert(row.name.to_owned(), Value::String(name));
        add_node(child, mode, nodes, depth + 1)?;
    }
    Ok(())
}

/// The object that the options of one `--object` describe.
pub(super) fn object_from_options(options: Options, mode: Mode) -> Result<ObjectSpec, SpecError> {
    from_table("--object", "qom-type", options, OBJECTS, mode)
}

/// The device that the options of one `--device` describe. Its id and, where they are left to
/// lowering, its queues are still to be filled in; `write-cache` and the error policies are not.
pub(super) fn device_from_options(
    mut options: Options,
    fallback_id: &str,
    mode: Mode,
) -> Result<DeviceSpec, SpecError> {
    if !options.contains_key("id") {
        options.insert("id".to_owned(), Value::from(fallback_id));
    }
    let of = "--device";
    let table = table_of(of, "driver", &mut options, DEVICES, &[])?;
    let options = compat::take(table, options, mode)?;
    let mut all = table.apply(options, mode)?;
    for (name, auto, value) in
        [("write-cache", "on", Some(true)), ("werror", "enospc", None), ("rerror", "report", None)]
    {
        if let Some(slot) = all.get_mut(name) {
            if *slot == "auto" {
                *slot = Value::from(auto);
            }
            if value.is_some() {
                *slot = Value::Bool(*slot == "on");
            }
        }
    }
    all.insert("driver".to_owned(), Value::from(table.name));
    typed(of, all)
}

fn from_table<T: DeserializeOwned>(
    of: &str,
    key: &'static str,
    mut options: Options,
    tables: &[&'static Table],
    mode: Mode,
) -> Result<T, SpecError> {
    let table = table_of(of, key, &mut options, tables, &[])?;
    let mut all = table.apply(options, mode)?;
    all.insert(key.to_owned(), Value::from(table.name));
    typed(of, all)
}

/// The table that the `key` entry of `options` names; the entry is removed.
fn table_of(
    of: &str,
    key: &'static str,
    options: &mut Options,
    tables: &[&'static Table],
    aliases: &[(&str, &str)],
) -> Result<&'static Table, SpecError> {
    let name = match options.remove(key) {
        Some(Value::String(name)) => name,
        Some(_) => return Err(SpecError::bad(of, key, "it is not a name")),
        None => {
            let help = format!("one of {}", names(tables).join(", "));
            return Err(SpecError::Missing { of: of.to_owned(), name: key.to_owned(), help });
        }
    };
    let real = aliases.iter().find(|(alias, _)| *alias == name).map_or(&*name, |(_, real)| real);
    tables.iter().find(|t| t.name == real).copied().ok_or_else(|| SpecError::Unknown {
        of: format!("{of} (known: {})", names(tables).join(", ")),
        what: key,
        near: near(&name, names(tables)),
        name,
    })
}

fn names(tables: &[&'static Table]) -> Vec<&'static str> {
    tables.iter().map(|t| t.name).collect()
}

fn split_off(options: Options, first: impl Fn(&str) -> bool) -> (Options, Options) {
    let (mut a, mut b) = (Map::new(), Map::new());
    for (key, value) in options {
        let side = if first(&key) { &mut a } else { &mut b };
        side.insert(key, value);
    }
    (a, b)
}

/// The typed form of options that went through their table.
fn typed<T: DeserializeOwned>(of: &str, options: Options) -> Result<T, SpecError> {
    // The table has checked everything; a failure here is a table that disagrees with its type,
    // which the tests look for.
    serde_json::from_value(Value::Object(options)).map_err(|e| SpecError::syntax(of, e.to_string()))
}
