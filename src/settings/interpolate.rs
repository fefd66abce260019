//! `${env:NAME}` and `${file:PATH}` inside string values; `$${` writes a literal `${`.

use std::path::Path;

use super::files::read_file;

/// Tells `note` of each file before it is read, whether it can be or not.
///
/// # Errors
/// A message for the user: an unset variable, an unreadable file, an unknown or unclosed placeholder.
pub(super) fn expand(raw: &str, folder: &Path, note: &mut impl FnMut(&Path)) -> Result<String, String> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(dollar) = rest.find("${") {
        if let Some(before) = rest[..dollar].strip_suffix('$') {
            text.push_str(before);
            text.push_str("${");
            rest = &rest[dollar + 2..];
            continue;
        }
        text.push_str(&rest[..dollar]);
        let inside = &rest[dollar + 2..];
        let end = inside.find('}').ok_or("${ is not closed by }; write $${ for a literal ${")?;
        text.push_str(&value(&inside[..end], folder, note)?);
        rest = &inside[end + 1..];
    }
    text.push_str(rest);
    Ok(text)
}

fn value(placeholder: &str, folder: &Path, note: &mut impl FnMut(&Path)) -> Result<String, String> {
    match placeholder.split_once(':') {
        Some(("env", name)) => {
            std::env::var(name).map_err(|_| format!("environment variable {name} is not set or not text"))
        }
        Some(("file", path)) => {
            let path = folder.join(path);
            note(&path);
            let bytes = read_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let text = String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))?;
            Ok(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        _ => Err(format!("unknown placeholder ${{{placeholder}}}; known: ${{env:NAME}}, ${{file:PATH}}")),
    }
}
