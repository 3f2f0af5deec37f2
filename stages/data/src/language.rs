//! The languages of the two papers: their names, their scripts, and which one a text is in.

use whatlang::{Detector, Lang};

/// A language: one of the 26 of the first paper, English, or one of the four that the second paper has
/// beside those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language {
    /// ISO 639-1: `de`.
    pub code: &'static str,
    /// In English.
    pub name: &'static str,
    /// What it is written in.
    pub script: Script,
    detected: Lang,
}

/// A writing system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Script {
    /// Arabic letters.
    Arabic,
    /// Bengali letters.
    Bengali,
    /// Cyrillic letters.
    Cyrillic,
    /// Hindi, Marathi, Nepali.
    Devanagari,
    /// Chinese characters.
    Han,
    /// Kannada letters.
    Kannada,
    /// Latin letters.
    Latin,
    /// Malayalam letters.
    Malayalam,
    /// Tamil letters.
    Tamil,
    /// Telugu letters.
    Telugu,
}

const fn language(
    code: &'static str,
    name: &'static str,
    script: Script,
    detected: Lang,
) -> Language {
    Language { code, name, script, detected }
}

/// Every language, sorted by code.
pub const LANGUAGES: [Language; 31] = [
    language("ar", "Arabic", Script::Arabic, Lang::Ara),
    language("bg", "Bulgarian", Script::Cyrillic, Lang::Bul),
    language("bn", "Bengali", Script::Bengali, Lang::Ben),
    language("ca", "Catalan", Script::Latin, Lang::Cat),
    language("cs", "Czech", Script::Latin, Lang::Ces),
    language("da", "Danish", Script::Latin, Lang::Dan),
    language("de", "German", Script::Latin, Lang::Deu),
    language("en", "English", Script::Latin, Lang::Eng),
    language("es", "Spanish", Script::Latin, Lang::Spa),
    language("fi", "Finnish", Script::Latin, Lang::Fin),
    language("fr", "French", Script::Latin, Lang::Fra),
    language("hi", "Hindi", Script::Devanagari, Lang::Hin),
    language("hr", "Croatian", Script::Latin, Lang::Hrv),
    language("hu", "Hungarian", Script::Latin, Lang::Hun),
    language("id", "Indonesian", Script::Latin, Lang::Ind),
    language("it", "Italian", Script::Latin, Lang::Ita),
    language("kn", "Kannada", Script::Kannada, Lang::Kan),
    language("ml", "Malayalam", Script::Malayalam, Lang::Mal),
    language("mr", "Marathi", Script::Devanagari, Lang::Mar),
    language("ne", "Nepali", Script::Devanagari, Lang::Nep),
    language("nl", "Dutch", Script::Latin, Lang::Nld),
    language("no", "Norwegian", Script::Latin, Lang::Nob),
    language("ro", "Romanian", Script::Latin, Lang::Ron),
    language("ru", "Russian", Script::Cyrillic, Lang::Rus),
    language("sk", "Slovak", Script::Latin, Lang::Slk),
    language("sr", "Serbian", Script::Cyrillic, Lang::Srp),
    language("ta", "Tamil", Script::Tamil, Lang::Tam),
    language("te", "Telugu", Script::Telugu, Lang::Tel),
    language("uk", "Ukrainian", Script::Cyrillic, Lang::Ukr),
    language("vi", "Vietnamese", Script::Latin, Lang::Vie),
    language("zh", "Chinese", Script::Han, Lang::Cmn),
];

impl Language {
    /// The language of a code.
    pub fn of(code: &str) -> Option<Language> {
        LANGUAGES.into_iter().find(|language| language.code == code)
    }

    /// Every code, sorted.
    pub fn codes() -> Vec<&'static str> {
        LANGUAGES.iter().map(|language| language.code).collect()
    }
}

impl Script {
    /// The name, as Unicode has it.
    pub fn name(self) -> &'static str {
        match self {
            Script::Arabic => "Arabic",
            Script::Bengali => "Bengali",
            Script::Cyrillic => "Cyrillic",
            Script::Devanagari => "Devanagari",
            Script::Han => "Han",
            Script::Kannada => "Kannada",
            Script::Latin => "Latin",
            Script::Malayalam => "Malayalam",
            Script::Tamil => "Tamil",
            Script::Telugu => "Telugu",
        }
    }

    /// The script of a letter, as far as it is one of these.
    pub fn of(letter: char) -> Option<Script> {
        Some(match letter as u32 {
            0x41..=0x5a | 0x61..=0x7a | 0xaa | 0xba => Script::Latin,
            0xc0..=0xd6 | 0xd8..=0xf6 | 0xf8..=0x24f | 0x1e00..=0x1eff => Script::Latin,
            0x400..=0x52f => Script::Cyrillic,
            0x600..=0x6ff | 0x750..=0x77f | 0xfb50..=0xfdff | 0xfe70..=0xfeff => Script::Arabic,
            0x900..=0x97f => Script::Devanagari,
            0x980..=0x9ff => Script::Bengali,
            0xb80..=0xbff => Script::Tamil,
            0xc00..=0xc7f => Script::Telugu,
            0xc80..=0xcff => Script::Kannada,
            0xd00..=0xd7f => Script::Malayalam,
            0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff => {
                Script::Han
            }
            _ => return None,
        })
    }
}

/// Of the letters of a text, the share that is of a script; `None` for a text without letters.
pub fn share_of_script(text: &str, script: Script) -> Option<f64> {
    let (mut letters, mut of_script) = (0u64, 0u64);
    for letter in text.chars().filter(|letter| letter.is_alphabetic()) {
        letters += 1;
        of_script += u64::from(Script::of(letter) == Some(script));
    }
    (letters > 0).then(|| of_script as f64 / letters as f64)
}

/// The letters, in lower case, that languages use which share a script, here or elsewhere: all of them
/// for Cyrillic and Arabic, those beyond `a` to `z` for Latin.
const LETTERS: [(&str, &str); 22] = [
    ("ar", "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىي"),
    ("bg", "абвгдежзийклмнопрстуфхцчшщъьюя"),
    ("ca", "àéèíïóòúüç"),
    ("cs", "áčďéěíňóřšťúůýž"),
    ("da", "æøåé"),
    ("de", "äöüß"),
    ("en", ""),
    ("es", "áéíóúüñ"),
    ("fi", "äöåšž"),
    ("fr", "àâæçéèêëîïôœùûüÿ"),
    ("hr", "čćđšž"),
    ("hu", "áéíóöőúüű"),
    ("id", ""),
    ("it", "àèéìíîòóùú"),
    ("nl", "éëïóöüèê"),
    ("no", "æøåéêòô"),
    ("ro", "ăâîșțşţ"),
    ("ru", "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"),
    ("sk", "áäčďéíĺľňóôŕšťúýž"),
    ("sr", "абвгдђежзијклљмнњопрстћуфхцчџш"),
    ("uk", "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя’"),
    ("vi", "àáâãèéêìíòóôõùúýăđĩũơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ"),
];

/// A text may hold so large a share of letters from elsewhere, in names say. Of scripts whose letters are
/// all listed, hardly any: names are written in the letters of the language that they stand in.
fn foreign(script: Script) -> f64 {
    if script == Script::Latin { 0.02 } else { 0.01 }
}

/// Whether it is a sign that Arabic sets above, below or between letters: a vowel, a doubling, a stretch.
fn is_arabic_mark(letter: char) -> bool {
    matches!(letter, '\u{640}' | '\u{64b}'..='\u{65f}' | '\u{670}')
}

/// Of the letters of a text, the share that a language does not use.
fn foreign_share(text: &str, language: &Language) -> f64 {
    let Some((_, own)) = LETTERS.iter().find(|(code, _)| *code == language.code) else {
        return 0.0;
    };
    let (mut letters, mut foreign) = (0u64, 0u64);
    for letter in text.chars().filter(|letter| letter.is_alphabetic()) {
        letters += 1;
        let is_of_script = Script::of(letter) == Some(language.script);
        if letter.is_ascii() || !is_of_script || is_arabic_mark(letter) {
            continue;
        }
        foreign += u64::from(!letter.to_lowercase().all(|letter| own.contains(letter)));
    }
    foreign as f64 / letters.max(1) as f64
}

/// Languages so close to each other that trigrams of a few sentences do not tell them apart.
const CLOSE: [&[&str]; 3] = [&["da", "no"], &["cs", "sk"], &["hi", "mr", "ne"]];

impl Language {
    /// Whether a text in the one is easily taken for one in the other.
    pub fn is_close_to(&self, other: &Language) -> bool {
        CLOSE.iter().any(|group| group.contains(&self.code) && group.contains(&other.code))
    }
}

/// A guess at the language of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guess {
    /// The language.
    pub language: Language,
    /// How sure, from 0 to 1.
    pub confidence: f64,
}

/// Guesses languages among some, which tells short texts apart much better than among all: by the script,
/// by letters that a language does not have, and among those that are left by trigrams (the `whatlang`
/// library).
#[derive(Debug, Clone)]
pub struct Identifier {
    candidates: Vec<Language>,
}

impl Identifier {
    /// An identifier that chooses among these.
    pub fn new(candidates: &[Language]) -> Identifier {
        Identifier { candidates: candidates.to_vec() }
    }

    /// The most likely language of a text; `None` for a text without letters.
    pub fn identify(&self, text: &str) -> Option<Guess> {
        let script = main_script(text)?;
        // Kana, Hangul or Greek beside letters that are known here: a language that is not.
        if foreign_letters(text) > MOST_UNKNOWN {
            return None;
        }
        let candidates = self.candidates.iter().filter(|language| language.script == script);
        let mut left: Vec<(f64, &Language)> =
            candidates.map(|language| (foreign_share(text, language), language)).collect();
        let least = left.iter().map(|(share, _)| *share).fold(f64::INFINITY, f64::min);
        left.retain(|(share, _)| *share <= least.max(foreign(script)));
        if left.first().is_some_and(|(share, _)| *share > MOST_UNKNOWN / 4.0) {
            // Persian or Urdu, say, for Arabic: the script, but not the letters.
            return None;
        }
        if let [(_, only)] = left[..] {
            return Some(Guess { language: *only, confidence: 1.0 });
        }
        let allowed = left.iter().map(|(_, language)| language.detected).collect();
        let info = Detector::with_allowlist(allowed).detect(text)?;
        let (_, language) = left.iter().find(|(_, it)| it.detected == info.lang())?;
        Some(Guess { language: **language, confidence: info.confidence() })
    }
}

/// Letters of scripts that none of the languages is written in may make up so large a share of a text.
const MOST_UNKNOWN: f64 = 0.2;

/// Of the letters of a text, the share whose script is not known here.
fn foreign_letters(text: &str) -> f64 {
    let (mut letters, mut unknown) = (0u64, 0u64);
    for letter in text.chars().filter(|letter| letter.is_alphabetic()) {
        letters += 1;
        unknown += u64::from(Script::of(letter).is_none());
    }
    unknown as f64 / letters.max(1) as f64
}

/// The script that most letters of a text are of.
fn main_script(text: &str) -> Option<Script> {
    let mut counts = std::collections::BTreeMap::new();
    for script in text.chars().filter_map(Script::of) {
        *counts.entry(script).or_insert(0u64) += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(script, _)| script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_detected_language_once() {
        assert!(LANGUAGES.is_sorted_by(|one, next| one.code < next.code));
        let mut detected: Vec<_> = LANGUAGES.iter().map(|language| language.detected).collect();
        detected.sort_unstable_by_key(|lang| lang.code());
        detected.dedup();
        assert_eq!(detected.len(), LANGUAGES.len());
        assert_eq!(Language::of("uk").map(|language| language.name), Some("Ukrainian"));
        assert_eq!(Language::of("xx"), None);
    }

    #[test]
    fn scripts_are_counted_among_letters_only() {
        assert_eq!(share_of_script("да, 12 yes!", Script::Cyrillic), Some(0.4));
        assert_eq!(share_of_script("12 + 3", Script::Latin), None);
        assert_eq!(share_of_script("नमस्ते", Script::Devanagari), Some(1.0));
        assert_eq!(share_of_script("汉字", Script::Han), Some(1.0));
        assert_eq!(share_of_script("Việt", Script::Latin), Some(1.0));
    }

    #[test]
    fn a_script_of_its_own_decides_and_otherwise_the_words_do() {
        let identifier = Identifier::new(&LANGUAGES);
        let code = |text: &str| identifier.identify(text).map(|guess| guess.language.code);
        assert_eq!(code("ಹೌದು"), Some("kn"));
        assert_eq!(code("是"), Some("zh"));
        assert_eq!(code("Der Hund schläft heute auf dem Sofa im Wohnzimmer."), Some("de"));
        assert_eq!(code("The dog is sleeping on the sofa in the living room today."), Some("en"));
        assert_eq!(code("Собака сегодня спит на диване, а кошки вышли в сад."), Some("ru"));
        assert_eq!(code("12 + 3 = 15"), None);
        assert_eq!(code("これは日本語の文です"), None);
        assert_eq!(code("이것은 한국어 문장입니다 OK"), None);
        assert_eq!(code("این یک جملهٔ فارسی است که چند کلمه دارد"), None);
        assert_eq!(code("ما هي عاصمة هذا البلد"), Some("ar"));
        assert_eq!(code("شكراً جزيلاً"), Some("ar"));
        assert_eq!(code("مَرْحَبًا بِكَ"), Some("ar"));
        assert_eq!(code("Это первое задание конкурса. Назовите следующий месяц года."), Some("ru"));
        let few = Identifier::new(&[Language::of("mr").unwrap(), Language::of("en").unwrap()]);
        let guess = few.identify("हा एक लहान मजकूर आहे").unwrap();
        assert_eq!((guess.language.code, guess.confidence), ("mr", 1.0));
    }
}
