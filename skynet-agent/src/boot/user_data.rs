//! The agent's settings among a machine's user-data, which belong to cloud-init and others as well.

/// Longest settings, bytes.
const MAX_SETTINGS: usize = 64 << 10;

/// Lines of a configuration file in user-data, if there are any. They may be there in three ways; the first that is found
/// counts. Never panics.
///
/// ```text
/// #skynet                       first line: all that follows is the file
///
/// #cloud-config
/// skynet: |                     a key of cloud-config, which cloud-init passes over
///   token = "skj1.…"
///
/// #!/bin/sh
/// #skynet: token = "skj1.…"     a comment in a script, line by line
/// ```
pub fn settings_in(user_data: &str) -> Option<String> {
    let found = whole(user_data).or_else(|| block(user_data)).or_else(|| comments(user_data))?;
    (found.len() <= MAX_SETTINGS && !found.trim().is_empty()).then_some(found)
}

fn whole(text: &str) -> Option<String> {
    let (first, rest) = text.trim_start_matches('\u{feff}').split_once('\n')?;
    (first.trim_end() == "#skynet").then(|| rest.to_owned())
}

/// A literal block (YAML 1.2 §8.1.2) under a key at the left margin: it ends with the first line that is not indented.
fn block(text: &str) -> Option<String> {
    let mut lines = text.lines();
    lines.find(|line| {
        let rest = line.strip_prefix("skynet:").map(str::trim);
        rest.is_some_and(|rest| matches!(rest, "|" | "|-" | "|+"))
    })?;
    let body = lines.take_while(|line| line.trim().is_empty() || line.starts_with(' '));
    let mut out = String::new();
    for line in body {
        out.push_str(line.trim());
        out.push('\n');
    }
    Some(out)
}

fn comments(text: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("#skynet:"));
    let found: String = lines.map(|line| format!("{}\n", line.trim())).collect();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "token = \"skj1.x\"\nroles = [\"worker\"]\n";

    fn samples() -> [String; 4] {
        [
            format!("#skynet\n{TOML}"),
            "#cloud-config\npackages: [mpi]\nskynet: |\n  token = \"skj1.x\"\n\n  roles = [\"worker\"]\nruncmd:\n  - true\n".to_owned(),
            "#!/bin/sh\n#skynet: token = \"skj1.x\"\necho hello\n#skynet: roles = [\"worker\"]\n".to_owned(),
            "Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\nContent-Type: text/cloud-config\r\n\r\nskynet: |\r\n    token = \"skj1.x\"\r\n    roles = [\"worker\"]\r\n--b--\r\n".to_owned(),
        ]
    }

    #[test]
    fn settings_are_found_in_every_kind_of_user_data() {
        for sample in samples() {
            let found = settings_in(&sample).unwrap_or_else(|| panic!("{sample}"));
            assert_eq!(found.lines().filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n") + "\n", TOML);
        }
    }

    #[test]
    fn others_user_data_have_none() {
        for other in [
            "",
            "#cloud-config\npackages: [mpi]\n",
            "#!/bin/sh\necho skynet: |\n",
            "#skynet",
            "#skynet\n \n",
            "skynet: {}\n",
            "network:\n  skynet: |\n    token = 1\n",
        ] {
            assert_eq!(settings_in(other), None, "{other:?}");
        }
        let long = format!("#skynet\n{}", "#".repeat(MAX_SETTINGS + 1));
        assert_eq!(settings_in(&long), None);
    }

    #[test]
    fn a_sample_cut_or_flipped_anywhere_never_panics() {
        for sample in samples() {
            let bytes = sample.as_bytes();
            for cut in 0..bytes.len() {
                let _ = settings_in(&String::from_utf8_lossy(&bytes[..cut]));
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = settings_in(&String::from_utf8_lossy(&flipped));
            }
        }
    }
}
