//! `ringcore generate`: files for the machine around the node, kept in the program so that every installation has those
//! that fit it.

/// A file that can be printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Asset {
    /// A hardened unit: /etc/systemd/system/ringcore.service
    Systemd,
    /// A profile that allows io_uring: docker run --security-opt seccomp=FILE
    Seccomp,
    /// Kernel settings: /etc/sysctl.d/60-ringcore.conf
    Sysctl,
}

impl Asset {
    /// The text of the file.
    pub fn text(self) -> &'static str {
        match self {
            Asset::Systemd => include_str!("../assets/ringcore.service"),
            Asset::Seccomp => include_str!("../assets/seccomp.json"),
            Asset::Sysctl => include_str!("../assets/sysctl.conf"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::exit::Exit;

    #[test]
    fn the_unit_does_not_restart_what_cannot_get_better() {
        let codes =
            [Exit::USAGE, Exit::IO, Exit::NOT_PERMITTED, Exit::SETTING].map(|exit| exit.0.to_string());
        let line = format!("\nRestartPreventExitStatus={}\n", codes.join(" "));
        assert!(Asset::Systemd.text().contains(&line), "{line}");
    }
}
