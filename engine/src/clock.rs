//! The wall clock: the one place that reads it. Times are for people and never enter an action.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, UTC.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// `20261120-225055.123` in UTC, from milliseconds since 1970: sorts as text in the order of time.
pub fn compact_utc(unix_ms: u64) -> String {
    let (year, month, day) = civil_date(unix_ms / 86_400_000);
    let seconds = unix_ms / 1000 % 86_400;
    format!(
        "{year:04}{month:02}{day:02}-{:02}{:02}{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        unix_ms % 1000
    )
}

/// `2026-11-20 22:50:55` in UTC, from milliseconds since 1970.
pub fn readable_utc(unix_ms: u64) -> String {
    let (year, month, day) = civil_date(unix_ms / 86_400_000);
    let seconds = unix_ms / 1000 % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// `2026-11-20T22:50:55.123+00:00`, from milliseconds since 1970: ISO 8601, as other programs read it.
pub fn iso_utc(unix_ms: u64) -> String {
    let day_and_time = readable_utc(unix_ms).replace(' ', "T");
    format!("{day_and_time}.{:03}+00:00", unix_ms % 1000)
}

/// Year, month and day of a day counted from 1970-01-01, by the Gregorian calendar. The year is
/// taken to begin in March, so that the leap day is its last.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_agree_with_the_date_command() {
        // date -u -d @N '+%Y-%m-%d %H:%M:%S'
        for (unix, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_709_251_200, "2024-03-01 00:00:00"),
            (1_795_215_055, "2026-11-20 22:50:55"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(readable_utc(unix * 1000), expected);
        }
        assert_eq!(compact_utc(1_795_215_055_007), "20261120-225055.007");
    }
}
