//! Pickles, read as data.
//!
//! A pickle is a program for a machine with a stack: its instructions put numbers, texts and collections
//! together, and may name any function of Python and call it. Here nothing is ever called. The few names
//! that plain tensors need are known to [`crate::pickled_tensor`], and what they do is done there; whatever
//! else a pickle names, and every instruction that tensors do not need, is refused where it stands.
//!
//! Values lie in one list and refer to each other by their places in it. So what is shared is not copied,
//! and what is nested, or holds itself, takes no stack, not even when it is dropped.
//! The instructions are those of protocols 2 to 5, told in CPython's `pickletools`, as far as PyTorch's
//! pickles have them.

use std::collections::BTreeMap;

use crate::pickled_tensor::{Named, Storage, Tensor};

/// What to do about a file that is not read.
pub(crate) const REMEDY: &str = "take these weights as safetensors, or, if you trust who made the file, \
                                 load it with transformers and save it again";
/// The most values that a pickle makes, so that what they take is bounded too: 50,000 tensors have so many.
const MOST_VALUES: usize = 1 << 20;
/// The longest name that is shown whole.
const SHOWN: usize = 80;

/// The place of a value among all of a pickle.
pub(crate) type Id = usize;

/// What a pickle holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Whole(i64),
    /// Which one matters to no tensor.
    Fraction,
    Text(&'a str),
    Named(Named),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Storage(Storage<'a>),
    Tensor(Box<Tensor<'a>>),
}

impl Value<'_> {
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "true or false",
            Value::Whole(_) | Value::Fraction => "a number",
            Value::Text(_) => "a text",
            Value::Named(_) => "the name of a function or type",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dict",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// A pickle that has been read.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    result: Id,
    storages: BTreeMap<&'a str, Storage<'a>>,
    /// How many of the bytes it was.
    pub(crate) length: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that bytes begin with.
    ///
    /// # Errors
    /// When it is cut or damaged, or holds anything but data and tensors.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Pickle<'a>, String> {
        let mut machine = Machine {
            bytes,
            place: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            storages: BTreeMap::new(),
        };
        loop {
            let place = machine.place;
            let step = machine.step();
            let done = step.map_err(|error| format!("at byte {place} of its pickle {error}"))?;
            if let Some(result) = done {
                let Machine { values, storages, place: length, .. } = machine;
                return Ok(Pickle { values, result, storages, length });
            }
        }
    }

    /// What it makes.
    pub(crate) fn result(&self) -> &Value<'a> {
        &self.values[self.result]
    }

    /// A value that another refers to.
    pub(crate) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id]
    }

    /// The storages that it names, by their keys.
    pub(crate) fn storages(&self) -> &BTreeMap<&'a str, Storage<'a>> {
        &self.storages
    }
}

/// A text from a file, fit for a message.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// The machine that a pickle is a program of.
struct Machine<'a> {
    bytes: &'a [u8],
    place: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// How long the stack was at each mark that has not been taken yet.
    marks: Vec<usize>,
    /// Values that are to be taken again, by their numbers.
    memo: BTreeMap<u32, Id>,
    storages: BTreeMap<&'a str, Storage<'a>>,
}

impl<'a> Machine<'a> {
    /// Does one instruction; gives the result after the last.
    fn step(&mut self) -> Result<Option<Id>, String> {
        match self.byte()? {
            // PROTO, FRAME, STOP
            0x80 => match self.byte()? {
                2..=5 => {}
                other => {
                    return Err(format!("it is of protocol {other}; 2 to 5 are read: {REMEDY}"));
                }
            },
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            // BININT1, BININT2, BININT, LONG1
            b'K' => self.whole(1, false)?,
            b'M' => self.whole(2, false)?,
            b'J' => self.whole(4, true)?,
            0x8a => {
                let bytes = self.byte()?;
                self.whole(bytes.into(), true)?;
            }
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.push(Value::Fraction)?;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, and SHORT_BINSTRING for texts of Python 2
            0x8c | b'U' => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            // EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b']' => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            // MARK, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b'(' => self.marks.push(self.stack.len()),
            b't' => {
                let items = self.since_mark()?;
                self.push(Value::Tuple(items))?;
            }
            code @ 0x85..=0x87 => {
                let items = self.last(usize::from(code) - 0x84)?;
                self.push(Value::Tuple(items))?;
            }
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' => {
                let items = self.last(1)?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.last(2)?;
                self.set(&items)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(&items)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => {
                let (number, top) = (self.memo.len() as u32, self.top()?);
                self.memo.insert(number, top);
            }
            b'h' => self.take_again(1)?,
            b'j' => self.take_again(4)?,
            // GLOBAL, STACK_GLOBAL, INST
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) =
                    (&self.values[module], &self.values[name])
                else {
                    return Err("a name is no text".to_owned());
                };
                self.name(module, name)?;
            }
            b'i' => {
                // It would make an object. Tensors need none; whoever reads the message wants its name.
                let (module, name) = (self.line()?, self.line()?);
                return Err(strange(module, name));
            }
            // REDUCE, BUILD, BINPERSID
            b'R' => self.call()?,
            b'b' => {
                // The attributes of an ordered dict: `_metadata` of a state dict. No number depends on it.
                self.pop()?;
                let target = self.top()?;
                if !matches!(self.values[target], Value::Dict(_)) {
                    let what = self.values[target].what();
                    return Err(format!("it sets attributes of {what}: {REMEDY}"));
                }
            }
            b'Q' => self.storage()?,
            other => {
                return Err(format!(
                    "there is the instruction {other:#04x}, which tensors do not need: {REMEDY}"
                ));
            }
        }
        Ok(None)
    }

    // Bytes

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.place..].get(..count).ok_or("it is cut")?;
        self.place += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// A number of at most eight bytes, the lowest first; the bits above it are 0.
    fn bits(&mut self, bytes: usize) -> Result<u64, String> {
        if bytes > 8 {
            return Err(format!("there is a number of {bytes} bytes"));
        }
        Ok(self.take(bytes)?.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }

    fn whole(&mut self, bytes: usize, has_sign: bool) -> Result<(), String> {
        let bits = self.bits(bytes)?;
        let above = 64 - 8 * bytes as u32;
        let number = match has_sign && bytes > 0 {
            true => (bits << above) as i64 >> above,
            false => bits as i64,
        };
        self.push(Value::Whole(number))
    }

    fn text(&mut self, bytes: usize) -> Result<(), String> {
        let length = self.bits(bytes)? as usize;
        let text =
            str::from_utf8(self.take(length)?).map_err(|_| "there is a text that is no UTF-8")?;
        self.push(Value::Text(text))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.place..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("it is cut")?;
        let line = &self.take(length + 1)?[..length];
        str::from_utf8(line).map_err(|_| "there is a name that is no UTF-8".to_owned())
    }

    // The stack

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        if self.values.len() == MOST_VALUES {
            return Err(format!("it has more than {MOST_VALUES} values, which is absurd"));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    /// The last so many values of the stack, none of them from before the last mark.
    fn last(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() - floor >= count {
            true => Ok(self.stack.split_off(self.stack.len() - count)),
            false => Err("it takes more than there is".to_owned()),
        }
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack[floor..].last().copied();
        top.ok_or_else(|| "it takes more than there is".to_owned())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("it takes more than there is")?;
        Ok(self.stack.split_off(mark))
    }

    fn put(&mut self, bytes: usize) -> Result<(), String> {
        let (number, top) = (self.bits(bytes)? as u32, self.top()?);
        self.memo.insert(number, top);
        Ok(())
    }

    fn take_again(&mut self, bytes: usize) -> Result<(), String> {
        let number = self.bits(bytes)? as u32;
        let id = self.memo.get(&number).ok_or("it takes again what it has not put aside")?;
        self.stack.push(*id);
        Ok(())
    }

    // Values

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        let target = self.top()?;
        match &mut self.values[target] {
            Value::List(list) => list.extend(items),
            other => return Err(format!("it appends to {}", other.what())),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let target = self.top()?;
        let (pairs, odd) = items.as_chunks();
        match &mut self.values[target] {
            Value::Dict(entries) if odd.is_empty() => {
                entries.extend(pairs.iter().map(|[name, value]| (*name, *value)));
            }
            Value::Dict(_) => return Err("it sets an entry without a value".to_owned()),
            other => return Err(format!("it sets an entry of {}", other.what())),
        }
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str) -> Result<(), String> {
        let named = Named::of(module, name).ok_or_else(|| strange(module, name))?;
        self.push(Value::Named(named))
    }

    /// What a function gives that the pickle calls.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err(format!("it calls with {}", self.values[arguments].what()));
        };
        match (&self.values[function], &arguments[..]) {
            (Value::Named(Named::OrderedDict), []) => self.push(Value::Dict(Vec::new())),
            (Value::Named(Named::RebuildTensor), arguments) => {
                let tensor = Tensor::rebuild(&self.values, arguments);
                let tensor = tensor.map_err(|error| format!("the tensor{} {error}", self.key()))?;
                self.push(Value::Tensor(Box::new(tensor)))
            }
            (Value::Named(Named::RebuildParameter), [data, ..])
                if matches!(self.values[*data], Value::Tensor(_)) =>
            {
                self.stack.push(*data);
                Ok(())
            }
            (other, arguments) => {
                let (what, count) = (other.what(), arguments.len());
                Err(format!("it calls {what} with {count} values: {REMEDY}"))
            }
        }
    }

    /// The text on top of the stack: in a dict of tensors, the name of the one that is being made.
    fn key(&self) -> String {
        match self.stack.last().map(|top| &self.values[*top]) {
            Some(Value::Text(name)) => format!(" `{}`", shown(name)),
            _ => String::new(),
        }
    }

    /// What is outside of the pickle, by the tuple that stands for it.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = Storage::of(&self.values, &self.values[id])?;
        if *self.storages.entry(storage.key).or_insert(storage) != storage {
            return Err(format!("the storage `{}` is two different ones", shown(storage.key)));
        }
        self.push(Value::Storage(storage))
    }
}

/// What is said of a name that is not known.
fn strange(module: &str, name: &str) -> String {
    let name = shown(&format!("{module}.{name}"));
    format!("it names `{name}`, which plain tensors do not need; nothing of it was run: {REMEDY}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(bytes: &[u8]) -> String {
        Pickle::read(bytes).unwrap_err()
    }

    #[test]
    fn collections_are_put_together() {
        // {"a": [1, 258, -2, True, None, 1.0], "b": (1, "a")}, with and without what protocol 4 adds.
        let old: &[u8] =
            b"\x80\x02}q\x00(X\x01\0\0\0aq\x01](K\x01q\x02M\x02\x01J\xfe\xff\xff\xff\x88N\
            G\0\0\0\0\0\0\0\0eX\x01\0\0\0bh\x02h\x01\x86u.";
        let new: &[u8] = b"\x80\x04\x95\0\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94](K\x01\x94M\x02\x01\
            \x8a\x01\xfe\x88NG\0\0\0\0\0\0\0\0e\x8d\x01\0\0\0\0\0\0\0bh\x02h\x01\x86u.";
        for bytes in [old, new] {
            let pickle = Pickle::read(bytes).unwrap();
            assert_eq!(pickle.length, bytes.len());
            let Value::Dict(entries) = pickle.result() else { panic!() };
            let [(a, list), (b, tuple)] = entries[..] else { panic!() };
            assert_eq!([pickle.get(a), pickle.get(b)], [&Value::Text("a"), &Value::Text("b")]);
            let Value::List(list) = pickle.get(list) else { panic!() };
            let list: Vec<_> = list.iter().map(|id| pickle.get(*id).clone()).collect();
            let whole = Value::Whole;
            let rest = [Value::Bool(true), Value::None, Value::Fraction];
            assert_eq!(list, [[whole(1), whole(258), whole(-2)], rest].concat());
            let Value::Tuple(tuple) = pickle.get(tuple) else { panic!() };
            assert_eq!(
                tuple.iter().map(|id| pickle.get(*id)).collect::<Vec<_>>(),
                [&whole(1), &Value::Text("a")]
            );
        }
    }

    /// However a name is written, it is told, and that is all that happens.
    #[test]
    fn what_is_not_of_tensors_is_named() {
        for (bytes, name) in [
            (&b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R."[..], "posix.system"),
            (b"cos\nsystem\n(S'ls'\ntR.", "os.system"),
            (b"(S'ls'\nios\nsystem\n.", "0x53"),
            (b"(ios\nsystem\n.", "os.system"),
            (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.", "posix.system"),
            (b"\x80\x02cbuiltins\neval\n.", "builtins.eval"),
            (b"\x80\x02c__builtin__\ngetattr\n.", "__builtin__.getattr"),
            (b"\x80\x02ctorch\nload\n.", "torch.load"),
            (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "__globals__"),
            (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "calls the name of a function"),
            (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "0x81"),
            (b"\x80\x02X\x02\0\0\0ls)R.", "calls a text with 0 values"),
            (b"\x80\x02]}b.", "sets attributes of a list"),
            (b"\x80\x02\x82\x01.", "0x82"),
            (b"\x80\x02Pname\n.", "0x50"),
        ] {
            let said = said(bytes);
            assert!(said.contains(name) && said.contains(REMEDY), "{said}");
        }
        let long = [b"c".as_slice(), &[0xc3, 0xa4].repeat(1 << 20), b"\n\x1b[31m\n."].concat();
        assert!(said(&long).len() < 500);
        assert!(said(b"c\x1b[31m\nx\n").contains("\\u{1b}[31m.x"));
    }

    #[test]
    fn damage_is_told_by_its_place() {
        for (bytes, message) in [
            (&b""[..], "byte 0 of its pickle it is cut"),
            (b"\x80\x02", "byte 2 of its pickle it is cut"),
            (b"\x80\x06", "is of protocol 6; 2 to 5 are read"),
            (b"X\xff\xff\xff\xffabc.", "it is cut"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.", "it is cut"),
            (b"\x8a\x09123456789.", "a number of 9 bytes"),
            (b"\x8a\x00", "byte 2 of its pickle it is cut"),
            (b"X\x01\0\0\0\xff.", "no UTF-8"),
            (b".", "takes more than there is"),
            (b"N(.", "takes more than there is"),
            (b"N(\x85.", "takes more than there is"),
            (b"NN\x87.", "takes more than there is"),
            (b"t.", "takes more than there is"),
            (b"q\0.", "takes more than there is"),
            (b"\x94.", "takes more than there is"),
            (b"h\x01.", "has not put aside"),
            (b"Nj\xff\xff\xff\xff.", "has not put aside"),
            (b"NNa.", "appends to None"),
            (b"N(NNu.", "sets an entry of None"),
            (b"}(Nu.", "without a value"),
            (b"NN\x93.", "a name is no text"),
            (b"NQ.", "no storage"),
            (b"ccollections\nOrderedDict\nNR.", "calls with None"),
        ] {
            let said = said(bytes);
            assert!(said.contains(message), "{said}");
        }
    }

    /// What would take a reader's stack, memory or time.
    #[test]
    fn abuse_is_cheap() {
        const MANY: usize = 1 << 19;
        // A list in a list in a list; marks without end; a list that holds itself, and often.
        let nested = [&vec![b']'; MANY][..], &vec![b'a'; MANY - 1], b"."].concat();
        assert!(Pickle::read(&nested).is_ok());
        let marks = [&vec![b'('; 4 * MANY][..], b"N."].concat();
        assert!(Pickle::read(&marks).is_ok());
        let itself = [b"]q\0(".as_slice(), &b"h\0".repeat(MANY), b"e."].concat();
        let pickle = Pickle::read(&itself).unwrap();
        assert_eq!(pickle.values.len(), 1);
        // Twice what was before, again and again: refers to it, and copies nothing.
        let doubled = [b"]".as_slice(), &b"q\0h\0h\0\x86".repeat(64), b"."].concat();
        assert!(Pickle::read(&doubled).unwrap().values.len() < 70);
        let values = [&vec![b'N'; MOST_VALUES + 1][..], b"."].concat();
        assert!(said(&values).contains("has more than 1048576 values"));
    }

    /// Instructions with what usually follows them, so that chance goes further than the first byte.
    fn fragment() -> impl Strategy<Value = Vec<u8>> {
        let known: &[&[u8]] = &[
            b"\x80\x02",
            b"\x95\0\0\0\0\0\0\0\0",
            b"N",
            b"\x88",
            b"K\x02",
            b"J\xff\xff\xff\xff",
            b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"X\x07\0\0\0storage",
            b"X\x01\0\0\0a",
            b")",
            b"]",
            b"}",
            b"(",
            b"(",
            b"t",
            b"\x85",
            b"\x86",
            b"\x87",
            b"a",
            b"e",
            b"s",
            b"u",
            b"q\0",
            b"\x94",
            b"h\0",
            b"h\x01",
            b"ccollections\nOrderedDict\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch._utils\n_rebuild_parameter\n",
            b"ctorch\nFloatStorage\n",
            b"R",
            b"b",
            b"Q",
            b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0aNK\x04tQ",
            b"K\0K\x02\x85K\x01\x85NNt",
            b".",
        ];
        let any = proptest::collection::vec(any::<u8>(), 0..4);
        prop_oneof![9 => proptest::sample::select(known).prop_map(<[u8]>::to_vec), 1 => any]
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(parts in proptest::collection::vec(fragment(), 0..60)) {
            if let Ok(pickle) = Pickle::read(&parts.concat()) {
                let _ = Tensor::all(&pickle);
            }
        }
    }
}
