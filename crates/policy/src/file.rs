//! Files that are replaced as a whole: a reader sees the old text or the new one.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// The folder that a file is in.
pub(crate) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Gives a file this text and mode. Blocks until both are on disk; whether the folder knows the new file then is up to the caller.
pub fn replace(file: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut new = NamedTempFile::new_in(folder_of(file))?;
    new.write_all(text.as_bytes())?;
    new.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}
