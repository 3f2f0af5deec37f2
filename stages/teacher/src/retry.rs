//! How long to wait before the next try.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;

/// The first wait.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait that we choose ourselves.
const LONGEST: Duration = Duration::from_secs(30);

/// The wait before try `next` (2 for the second), doubled each time and shortened by up to a quarter,
/// so that those who failed together do not come back together.
pub(crate) fn back_off(next: u32, chance: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1 << next.saturating_sub(2).min(16)).min(LONGEST);
    doubled.mul_f64(1.0 - 0.25 * chance.clamp(0.0, 1.0))
}

/// The wait that a server asks for, by `retry-after-ms` (milliseconds) or `retry-after` (seconds, or a
/// date).
pub(crate) fn asked_for(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |number: f64| (number > 0.0).then(|| Duration::try_from_secs_f64(number).ok())?;
    if let Some(milliseconds) = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return seconds(milliseconds / 1000.0);
    }
    let text = text("retry-after")?;
    if let Ok(number) = text.parse::<f64>() {
        return seconds(number);
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date that is past, by the clocks of two machines, asks for nothing.
    date.duration_since(now).ok().filter(|wait| !wait.is_zero())
}

/// The time after which a server that says that nothing is left has something again:
/// `x-ratelimit-remaining-*` is 0 and `x-ratelimit-reset-*` a duration such as `6m0s`.
pub(crate) fn nothing_left(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: String| headers.get(name)?.to_str().ok().map(str::trim);
    ["requests", "tokens"]
        .into_iter()
        .filter(|what| text(format!("x-ratelimit-remaining-{what}")) == Some("0"))
        .filter_map(|what| duration(text(format!("x-ratelimit-reset-{what}"))?))
        .max()
}

/// A duration as Go prints it: `1s`, `6m0s`, `1h2m3.5s`, `20ms`. What servers send instead (whole
/// numbers, -1) says nothing.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|other: char| !other.is_ascii_digit() && other != '.')?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let units = [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9)];
        let units = units.into_iter().chain([("h", 3600.0), ("m", 60.0), ("s", 1.0)]);
        let (factor, after) =
            units.into_iter().find_map(|(unit, it)| Some((it, after.strip_prefix(unit)?)))?;
        total += number * factor;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok())?
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        assert_eq!(back_off(2, 0.0), Duration::from_millis(500));
        assert_eq!(back_off(4, 0.0), Duration::from_secs(2));
        assert_eq!(back_off(4, 1.0), Duration::from_millis(1500));
        assert_eq!(back_off(99, 0.0), Duration::from_secs(30));
    }

    #[test]
    fn servers_ask_for_waits_in_three_ways() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let asked = |pairs: &[(&'static str, &str)]| asked_for(&headers(pairs), now);
        assert_eq!(asked(&[("retry-after", "2")]), Some(Duration::from_secs(2)));
        assert_eq!(asked(&[("retry-after", "0.5")]), Some(Duration::from_millis(500)));
        assert_eq!(
            asked(&[("retry-after", "9"), ("retry-after-ms", "20")]),
            Some(Duration::from_millis(20))
        );
        assert_eq!(
            asked(&[("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT")]),
            Some(Duration::from_secs(3))
        );
        for nonsense in ["", "soon", "-1", "0", "nan", "1e400", "Sun, 06 Nov 1994 08:49:36 GMT"] {
            assert_eq!(asked(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
        assert_eq!(asked(&[]), None);
    }

    #[test]
    fn an_empty_allowance_says_when_it_fills() {
        let none = |pairs: &[(&'static str, &str)]| nothing_left(&headers(pairs));
        assert_eq!(
            none(&[
                ("x-ratelimit-remaining-requests", "0"),
                ("x-ratelimit-reset-requests", "6m0s")
            ]),
            Some(Duration::from_secs(360))
        );
        assert_eq!(
            none(&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "20ms")]),
            Some(Duration::from_millis(20))
        );
        assert_eq!(
            none(&[("x-ratelimit-remaining-requests", "7"), ("x-ratelimit-reset-requests", "1s")]),
            None
        );
        for nonsense in ["-1", "60", "", "s", "1x"] {
            let pairs =
                [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", nonsense)];
            assert_eq!(none(&pairs), None, "{nonsense}");
        }
    }
}
