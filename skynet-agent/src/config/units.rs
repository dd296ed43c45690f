//! Values with their unit in them: `"25s"`.

use std::time::Duration;

/// A duration such as `500ms`, `25s`, `2m`, `1h`; whole numbers only, at most a day.
///
/// # Errors
/// What is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let error =
        || format!("{text:?} is no duration: a whole number and ms, s, m or h, such as \"25s\", at most 24h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| error())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    let millis = number.checked_mul(millis).filter(|m| *m <= 86_400_000).ok_or_else(error)?;
    Ok(Duration::from_millis(millis))
}
