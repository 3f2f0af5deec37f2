//! How numbers are written: one rule for all outputs.

/// With so many decimals; what is no number, and minus zero, have no place in a table.
pub(crate) fn decimal(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|it| matches!(it, '0' | '.')) => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// A share as percent with one decimal, as the paper prints scores.
pub(crate) fn percent(share: f64) -> String {
    decimal(share * 100.0, 1)
}

/// A standard error in percent: of averages over seeds one decimal says little.
pub(crate) fn error(percent: f64) -> String {
    decimal(percent, 2)
}

/// A difference, with its sign also if it is positive.
pub(crate) fn signed(value: f64) -> String {
    let text = decimal(value, 1);
    match text.as_str() {
        "0.0" | "–" => text,
        _ if value > 0.0 => format!("+{text}"),
        _ => text,
    }
}

/// A count, in groups of three digits.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A model's size, as names of models have it.
pub(crate) fn parameters(value: u64) -> String {
    let (divisor, unit) = match value {
        0..1_000 => return value.to_string(),
        1_000..999_950 => (1e3, "K"),
        999_950..999_950_000 => (1e6, "M"),
        _ => (1e9, "B"),
    };
    let text = decimal(value as f64 / divisor, 1);
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// Money: cents, or more digits where cents say nothing.
pub(crate) fn usd(micro_usd: u64) -> String {
    match micro_usd {
        0 => "$0".to_owned(),
        1..10_000 => format!("${:.4}", micro_usd as f64 / 1e6),
        _ => {
            let cents = (micro_usd + 5_000) / 10_000;
            format!("${}.{:02}", count(cents / 100), cents % 100)
        }
    }
}

/// A time in its two largest units.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A number on an axis: as short as it can be told apart from its neighbours at this distance.
pub(crate) fn tick(value: f64, distance: f64) -> String {
    if value.abs() >= 10_000.0 {
        let (divisor, unit) = if value.abs() < 1e6 { (1e3, "k") } else { (1e6, "M") };
        let decimals = decimals_at(distance / divisor);
        return format!("{}{unit}", decimal(value / divisor, decimals));
    }
    decimal(value, decimals_at(distance))
}

fn decimals_at(distance: f64) -> usize {
    (0..6)
        .find(|&decimals| {
            let scaled = distance * 10f64.powi(decimals as i32);
            (scaled - scaled.round()).abs() < 1e-6 * scaled
        })
        .unwrap_or(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        assert_eq!(percent(0.3034), "30.3");
        assert_eq!(
            [decimal(-0.01, 1), decimal(-0.26, 1), decimal(f64::NAN, 1)],
            ["0.0", "−0.3", "–"]
        );
        assert_eq!([signed(1.66), signed(-1.66), signed(0.01)], ["+1.7", "−1.7", "0.0"]);
        assert_eq!([count(0), count(999), count(1_234_567)], ["0", "999", "1,234,567"]);
        let sizes = [999, 72_000, 560_000_000, 999_990_000, 7_100_000_000].map(parameters);
        assert_eq!(sizes, ["999", "72K", "560M", "1B", "7.1B"]);
        assert_eq!([usd(0), usd(123), usd(1_234_567_890)], ["$0", "$0.0001", "$1,234.57"]);
        assert_eq!(
            [duration(59.94), duration(59.96), duration(3_599.6)],
            ["59.9 s", "1 min 00 s", "1 h 00 min"]
        );
        assert_eq!(
            [tick(0.25, 0.05), tick(2.0, 0.5), tick(20_000.0, 5_000.0)],
            ["0.25", "2.0", "20k"]
        );
    }
}
