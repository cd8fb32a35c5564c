//! A folder that looks like the real runner's distribution.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

const RUN: &str = include_str!("scripts/run.sh");
const CONFIG: &str = include_str!("scripts/config.sh");

/// Makes `folder/bin/Runner.Listener` (a hard link to `executable` where possible, a copy otherwise), `folder/run.sh` and
/// `folder/config.sh`.
pub fn install(folder: &Path, executable: &Path) -> Result<()> {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let listener = bin.join("Runner.Listener");
    if listener.exists() {
        std::fs::remove_file(&listener)?;
    }
    if std::fs::hard_link(executable, &listener).is_err() {
        std::fs::copy(executable, &listener)
            .with_context(|| format!("cannot copy {}", executable.display()))?;
    }
    for (name, text) in [("run.sh", RUN), ("config.sh", CONFIG)] {
        let script = folder.join(name);
        std::fs::write(&script, text)
            .with_context(|| format!("cannot write {}", script.display()))?;
        std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    }
    Ok(())
}
