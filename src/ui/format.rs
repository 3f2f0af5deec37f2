//! Durations, sizes and times for people.

/// `400 ms`, `1.2 s`, `12 s`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..10 => format!("{}.{} s", seconds, ms % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `512 B`, `1.5 KiB`, `20 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 10.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `12 nodes`, `1 node`.
pub(crate) fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// Reads `500M`, `20G`, `1.5TiB`, `1000`: powers of 1024, and plain bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size: write 500M, 20G, or a number of bytes");
    let digits = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let power = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b')
    {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(bad()),
    };
    Ok((number * 1024_f64.powi(power)) as u64)
}

/// A number with its thousands apart: `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A large number by its first three digits: `1.23 M`, `950 k`; below ten thousand all of them.
pub(crate) fn rounded(number: u64) -> String {
    const UNITS: [&str; 4] = ["k", "M", "G", "T"];
    if number < 10_000 {
        return thousands(number);
    }
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A duration in hours: `12.3 h`, `1,234 h`; below six minutes in minutes or seconds.
pub(crate) fn hours(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{} s", ms.div_ceil(1000)),
        60_000..360_000 => format!("{} m", ms / 60_000),
        360_000..360_000_000 => format!("{:.1} h", ms as f64 / 3.6e6),
        _ => format!("{} h", thousands((ms as f64 / 3.6e6).round() as u64)),
    }
}

/// A number as people write it: whole ones whole, others with three digits after the point.
pub(crate) fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value}");
    }
    if value.abs() < 1e-3 {
        return format!("{value:.2e}");
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Billionths of a US dollar as dollars: cents from one dollar on, below it two digits that count.
pub(crate) fn money(nano_usd: u64) -> String {
    let usd = nano_usd as f64 / 1e9;
    match nano_usd {
        0 => "$0".to_owned(),
        1_000_000_000.. => format!("${usd:.2}"),
        10_000_000.. => format!("${usd:.3}"),
        _ => format!("${usd:.6}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_well() {
        assert_eq!(duration(4), "4 ms");
        assert_eq!(duration(1234), "1.2 s");
        assert_eq!(duration(200_000), "3 m 20 s");
        assert_eq!(duration(7_500_000), "2 h 5 m");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(20 << 20), "20 MiB");
    }

    #[test]
    fn large_numbers_are_short() {
        for (number, expected) in [
            (9_999, "9,999"),
            (10_000, "10.0 k"),
            (123_456, "123 k"),
            (999_600, "1.00 M"),
            (12_345_678, "12.3 M"),
            (7_000_000_000, "7.00 G"),
        ] {
            assert_eq!(rounded(number), expected);
        }
        for (ms, expected) in [
            (1, "1 s"),
            (61_000, "1 m"),
            (3_600_000, "1.0 h"),
            (359_000_000, "99.7 h"),
            (36_000_000_000, "10,000 h"),
        ] {
            assert_eq!(hours(ms), expected);
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("500M"), Ok(500 << 20));
        assert_eq!(parse_size("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_size("1000"), Ok(1000));
        assert!(parse_size("lots").is_err());
    }
}
