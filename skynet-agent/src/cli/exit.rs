//! What a verb ends with.

use crate::api::ClientError;
use crate::config::ConfigError;
use crate::secret::SecretError;

/// Exit codes, the same for every verb.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed as asked.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// No agent is running.
    NotRunning = 3,
    /// The agent belongs to no network.
    NotJoined = 4,
    /// Not within the time given.
    Timeout = 5,
    /// Works, but not as well as asked.
    Degraded = 6,
}

/// One sentence and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// The sentence.
    pub message: String,
}

impl Failure {
    /// A failure of `exit` with one sentence.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NotRunning { .. } => Exit::NotRunning,
            ClientError::NotAllowed { .. } | ClientError::Io { .. } => Exit::Failed,
            ClientError::Refused(refused) => match refused.code {
                2 => Exit::Usage,
                3 => Exit::NotRunning,
                4 => Exit::NotJoined,
                5 => Exit::Timeout,
                6 => Exit::Degraded,
                _ => Exit::Failed,
            },
        };
        Self::new(exit, error.to_string())
    }
}
