//! What a path given to `wal` or `snapshot` means: which cores of which data directory, or which file of one.

use std::io;
use std::path::{Path, PathBuf};

use crate::storage::data_dir::{self, DataDirError, Layout, NODE_FILE, core_dir};
use crate::storage::disk::Disk as _;
use crate::storage::manifest::{self, Manifest};
use crate::storage::owner::Owner;
use crate::storage::small_file::FileError;
use crate::types::CoreId;

use super::exit::{Exit, Refusal};
use super::read_only_disk::{ReadOnlyDisk, ready};

/// A data directory, and what of it is meant.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub disk: ReadOnlyDisk,
    /// Cores, in the order in which recovery reads them.
    pub cores: Vec<CorePlace>,
    /// The name of the only file that is meant, within its core's directory.
    pub file: Option<String>,
}

/// One core of one layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CorePlace {
    /// Its directory, below the data directory.
    pub dir: String,
    /// Whose its files must be.
    pub owner: Owner,
}

impl Place {
    /// Looks up what `path` is.
    ///
    /// # Errors
    /// 78: it is not of a data directory; 77: it may not be read; 74: the directory's own description is damaged.
    pub fn find(path: &Path) -> Result<Place, Refusal> {
        let whole = path.canonicalize().map_err(|error| unreadable(path, &error))?;
        let Some(root) = whole.ancestors().find(|above| above.join(NODE_FILE).is_file()) else {
            let what =
                format!("{}: not a data directory, and not in one: no {NODE_FILE} file", path.display());
            let fix = "fix: name the directory given to `ringcore start --data-dir`, or one of its files";
            return Err(Refusal::new(Exit::SETTING, what).fix(fix));
        };
        let disk = ReadOnlyDisk::new(root);
        let node = ready(data_dir::find(&disk)).map_err(|error| undescribed(root, &error))?;
        let node = node.expect("its file is there");
        let asked = whole.strip_prefix(root).expect("it is above");
        let all = node.layouts().iter().flat_map(|layout: &Layout| {
            (0..layout.cores)
                .map(CoreId)
                .map(|core| CorePlace { dir: core_dir(layout.id, core), owner: node.owner(layout, core) })
        });
        let mut cores: Vec<CorePlace> = all.collect();
        let mut file = None;
        if asked != Path::new("") {
            cores.retain(|core| Path::new(&core.dir).starts_with(asked) || asked.starts_with(&core.dir));
            file = cores.first().and_then(|core| name_below(asked, &core.dir));
            if cores.is_empty() {
                let what = format!("{}: nothing that {NODE_FILE} lists", path.display());
                return Err(
                    Refusal::new(Exit::SETTING, what).fix("fix: name a core's directory, or a file of one")
                );
            }
        }
        Ok(Place { disk, cores, file })
    }

    /// The manifest of a core.
    ///
    /// # Errors
    /// It is damaged, missing or another's.
    pub fn manifest(&self, core: &CorePlace) -> Result<Manifest, FileError> {
        ready(manifest::read(&self.disk, &core.dir, &core.owner))
    }

    /// Whether there is a file with that path below the directory.
    pub fn has(&self, path: &str) -> bool {
        ready(self.disk.open(path, false)).is_ok()
    }

    /// Whether that file of a core is meant.
    pub fn means(&self, name: &str) -> bool {
        self.file.as_ref().is_none_or(|only| only == name)
    }
}

fn name_below(asked: &Path, dir: &str) -> Option<String> {
    let below: PathBuf = asked.strip_prefix(dir).ok()?.into();
    (below != Path::new("")).then(|| below.to_string_lossy().into_owned())
}

fn unreadable(path: &Path, error: &io::Error) -> Refusal {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::NOT_PERMITTED,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Exit::SETTING,
        _ => Exit::IO,
    };
    Refusal::new(exit, format!("{}: {error}", path.display()))
}

fn undescribed(root: &Path, error: &DataDirError) -> Refusal {
    Refusal::new(Exit::IO, format!("{}: {error}", root.display()))
}
