//! Running the programs of a directory: which, how long, and what becomes of what they print.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Programs run of one directory; further ones are not.
const MAX_PROGRAMS: usize = 32;
/// What of a program's output goes into the log.
const MAX_OUTPUT: usize = 4 << 10;
/// For what a program has printed, once it has ended: a child of its own may keep the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The whole environment, beside what is told.
const BASE: [(&str, &str); 3] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/"), ("LANG", "C")];

/// Runs all of them, one after the other. What goes wrong with one is a line in the log, and the next is run.
pub(super) async fn run_all(directory: &Path, timeout: Duration, environment: &[(&'static str, String)]) {
    let programs = match programs(directory) {
        Ok(programs) => programs,
        Err(e) => return tracing::warn!(directory = %directory.display(), %e, "hooks are not run"),
    };
    for program in programs {
        let name = program.display().to_string();
        match run(&program, timeout, environment).await {
            Ok((status, output)) if status.success() => tracing::debug!(hook = name, output, "done"),
            Ok((status, output)) => tracing::warn!(hook = name, %status, output, "the hook failed"),
            Err(e) => tracing::warn!(hook = name, %e, "the hook was not run to its end"),
        }
    }
}

/// Its programs in the order of their names. What others than root, or this user, could have written is not run.
fn programs(directory: &Path) -> io::Result<Vec<PathBuf>> {
    check_owner(directory)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let named = path.file_name().and_then(|name| name.to_str()).is_some_and(is_program_name);
        let executable = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0);
        if !named || !executable {
            continue;
        }
        match check_owner(&path) {
            Ok(()) => found.push(path),
            Err(e) => tracing::warn!(hook = %path.display(), %e, "the hook is not run"),
        }
    }
    found.sort();
    if found.len() > MAX_PROGRAMS {
        tracing::warn!(directory = %directory.display(), most = MAX_PROGRAMS, "too many hooks, the last are not run");
        found.truncate(MAX_PROGRAMS);
    }
    Ok(found)
}

/// As `run-parts` has it, and dots within: no editor's copies, nothing hidden.
fn is_program_name(name: &str) -> bool {
    !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn check_owner(path: &Path) -> io::Result<()> {
    let meta = std::fs::metadata(path)?;
    let ours = meta.uid() == 0 || meta.uid() == nix::unistd::geteuid().as_raw();
    if !ours || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("others than root may write it; the cure: chown root, chmod go-w"));
    }
    Ok(())
}

async fn run(
    program: &Path,
    timeout: Duration,
    environment: &[(&'static str, String)],
) -> io::Result<(std::process::ExitStatus, String)> {
    let mut child = Command::new(program)
        .env_clear()
        .envs(BASE)
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Group);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut output = (Vec::new(), Vec::new());
    let ended = {
        let reading = async { tokio::join!(read(out, &mut output.0), read(err, &mut output.1)) };
        let ended = async {
            tokio::pin!(reading);
            tokio::select! {
                status = child.wait() => {
                    let _ = tokio::time::timeout(LAST_WORDS, reading).await;
                    status
                }
                _ = &mut reading => child.wait().await,
            }
        };
        tokio::time::timeout(timeout, ended).await
    };
    drop(group);
    let status =
        ended.map_err(|_| io::Error::other(format!("it took longer than {timeout:?} and was ended")))??;
    let text = [output.0, output.1].concat();
    Ok((status, String::from_utf8_lossy(&text).trim_end().to_owned()))
}

/// Keeps the beginning and reads the rest, so that nobody waits for a full pipe.
async fn read(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 1_024];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        let room = (MAX_OUTPUT - kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
    }
}

/// The processes of one program, ended with it.
struct Group(i32);

impl Drop for Group {
    fn drop(&mut self) {
        // None is left: it ended by itself, and so did its children.
        let _ = killpg(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn script(directory: &Path, name: &str, mode: u32, text: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }

    #[test]
    fn only_programs_that_nobody_else_may_write_are_run_in_the_order_of_their_names() {
        let dir = directory();
        for (name, mode) in [
            ("20-b", 0o755),
            ("10-a.sh", 0o700),
            ("not-executable", 0o644),
            ("everybody-writes", 0o777),
            (".hidden", 0o755),
            ("copy~", 0o755),
        ] {
            script(dir.path(), name, mode, "true");
        }
        let found = programs(dir.path()).unwrap();
        let names: Vec<_> = found.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["10-a.sh", "20-b"]);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(programs(dir.path()).is_err());
    }

    #[test]
    fn a_program_sees_what_it_is_told_and_nothing_else() {
        let dir = directory();
        let path = script(dir.path(), "env", 0o755, "env | grep -v '^_=' | grep -v '^PWD=' | sort");
        let environment = [("SKYNET_JOINED", "a b; rm -rf /".to_owned())];
        let (status, output) = block_on(run(&path, Duration::from_secs(10), &environment)).unwrap();
        assert!(status.success());
        let path = BASE[0].1;
        assert_eq!(output, format!("HOME=/\nLANG=C\nPATH={path}\nSKYNET_JOINED=a b; rm -rf /"));
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_its_children() {
        let dir = directory();
        let mark = dir.path().join("mark");
        let text = format!("sh -c 'sleep 1; touch {}' &\nsleep 60", mark.display());
        let path = script(dir.path(), "hangs", 0o755, &text);
        let start = clock();
        let ended = block_on(run(&path, Duration::from_millis(300), &[]));
        assert!(ended.unwrap_err().to_string().contains("longer than"));
        assert!(clock() - start < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(1_500));
        assert!(!mark.exists(), "a child went on");
    }

    #[test]
    fn much_output_is_read_and_little_kept() {
        let dir = directory();
        let path = script(dir.path(), "talks", 0o755, "head -c 1000000 /dev/zero | tr '\\0' x; exit 3");
        let (status, output) = block_on(run(&path, Duration::from_secs(10), &[])).unwrap();
        assert_eq!((status.code(), output.len()), (Some(3), MAX_OUTPUT));
    }

    fn clock() -> Duration {
        Duration::from_nanos(crate::clock::monotonic().as_nanos())
    }
}
