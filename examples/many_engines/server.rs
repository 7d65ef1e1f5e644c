//! A PostgreSQL server for the time of the example: of the programs that are installed, in a folder of
//! its own, reached by a socket in that folder only.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) struct Server {
    folder: PathBuf,
    /// When nobody is at the other end of its input any more, the server is stopped.
    script: Child,
}

const SCRIPT: &str = r#"
trap '' INT HUP TERM
bin=$1; folder=$2
{
    "$bin/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N &&
    "$bin/pg_ctl" -D "$folder/data" -l "$folder/log" -w -t 60 start \
        -o "-k $folder -c listen_addresses= -c fsync=off"
} >"$folder/said" 2>&1 && echo ready || { cat "$folder/said" "$folder/log" >&2; echo failed; }
while read -r line; do :; done
"$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1
rm -rf "$folder"
"#;

impl Server {
    /// None where PostgreSQL is not installed.
    pub(crate) fn start() -> Result<Option<Self>, Box<dyn Error>> {
        let Some(programs) = find_programs() else { return Ok(None) };
        let name = format!("stepwell-many-engines-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder)?;
        let mut script = unprivileged(&folder)?
            .args(["sh", "-c", SCRIPT, "sh"])
            .args([&programs, &folder])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = script.stdout.take().ok_or("it says nothing")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        let server = Self { folder, script };
        if line.trim() == "ready" {
            Ok(Some(server))
        } else {
            Err("the server does not start".into())
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.folder.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// The folder of the server's programs: Debian keeps them apart, a folder for each version.
fn find_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let has_all = |folder: &PathBuf| {
        ["postgres", "initdb", "pg_ctl"].iter().all(|program| folder.join(program).exists())
    };
    folders.into_iter().rev().find(has_all)
}

/// The beginning of a command without the rights of root, which PostgreSQL refuses.
fn unprivileged(folder: &Path) -> Result<Command, Box<dyn Error>> {
    let id = |arguments: &[&str]| -> Result<String, Box<dyn Error>> {
        let output = Command::new("id").args(arguments).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    if id(&["-u"])? != "0" {
        return Ok(Command::new("env"));
    }
    let user = if id(&["-u", "postgres"])?.is_empty() { "nobody" } else { "postgres" };
    let group = id(&["-g", user])?;
    let done = Command::new("chown").arg(format!("{user}:{group}")).arg(folder).status()?;
    if !done.success() {
        return Err(format!("{} cannot be given to {user}", folder.display()).into());
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", &group, "--clear-groups", "--"]);
    Ok(command)
}
