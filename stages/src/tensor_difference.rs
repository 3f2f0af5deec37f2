//! How far the tensors of two files lie apart.

use std::path::Path;

use half::{bf16, f16};
use okapi_engine::audit::difference::Difference;
use safetensors::{Dtype, SafeTensors};

/// How two files of tensors (safetensors) differ: the tensor whose numbers lie furthest apart, as a share of the largest
/// number in it. `None` if they are no such files.
pub fn difference_of_tensors(recorded: &Path, new: &Path) -> Option<Difference> {
    let (old_bytes, new_bytes) = (read(recorded)?, read(new)?);
    let old = SafeTensors::deserialize(&old_bytes).ok()?;
    let new = SafeTensors::deserialize(&new_bytes).ok()?;
    let plain = |what: String| Some(Difference { what, relative: None });
    let mut names = old.names();
    names.sort_unstable();
    let mut others = new.names();
    others.sort_unstable();
    if names != others {
        let differing = names
            .iter()
            .find(|it| !others.contains(it))
            .or_else(|| others.iter().find(|it| !names.contains(it)))?;
        return plain(format!(", tensor `{differing}` is in one of the two only"));
    }
    let mut furthest: Option<(f64, f64, &str)> = None;
    let mut count = 0;
    for name in names {
        let (was, is) = (old.tensor(name).ok()?, new.tensor(name).ok()?);
        if was.dtype() != is.dtype() || was.shape() != is.shape() {
            return plain(format!(", tensor `{name}` has another type or shape"));
        }
        if was.data() == is.data() {
            continue;
        }
        count += 1;
        let (was, is) = (numbers(was.dtype(), was.data())?, numbers(is.dtype(), is.data())?);
        let largest = was.iter().map(|it| it.abs()).fold(0.0, f64::max);
        let apart = was.iter().zip(&is).map(|(was, is)| (was - is).abs());
        // A number that is none is as far away as can be.
        let apart =
            apart.fold(0.0, |most, it| if it.is_nan() { f64::INFINITY } else { it.max(most) });
        let relative = apart / largest;
        let relative = if relative.is_nan() { f64::INFINITY } else { relative };
        if furthest.is_none_or(|(most, _, _)| relative > most) {
            furthest = Some((relative, apart, name));
        }
    }
    let Some((relative, apart, name)) = furthest else {
        return plain(", in what is said beside its tensors".to_owned());
    };
    let others = match count {
        1 => String::new(),
        2 => ", and another tensor differs".to_owned(),
        more => format!(", and {} other tensors differ", more - 1),
    };
    let what = format!(
        ", tensor `{name}`: numbers are {apart:.3e} apart, {relative:.1e} of its largest{others}"
    );
    Some(Difference { what, relative: Some(relative) })
}

fn read(path: &Path) -> Option<Vec<u8>> {
    // A header's length comes first: what is no such file is not read whole.
    let mut start = [0; 8];
    let mut file = std::fs::File::open(path).ok()?;
    std::io::Read::read_exact(&mut file, &mut start).ok()?;
    let header = u64::from_le_bytes(start);
    (header < file.metadata().ok()?.len()).then(|| std::fs::read(path).ok())?
}

fn numbers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    let halves = |of: fn([u8; 2]) -> f64| bytes.as_chunks().0.iter().map(|it| of(*it)).collect();
    Some(match dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|it| f64::from_le_bytes(*it)).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it).into()).collect(),
        Dtype::F16 => halves(|it| f16::from_le_bytes(it).to_f64()),
        Dtype::BF16 => halves(|it| bf16::from_le_bytes(it).to_f64()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::tensor::TensorView;

    use super::*;

    fn file(folder: &Path, name: &str, tensors: &[(&str, &[f32])]) -> std::path::PathBuf {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, numbers)| numbers.iter().flat_map(|it| it.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, numbers), bytes)| {
            (*name, TensorView::new(Dtype::F32, vec![numbers.len()], bytes).unwrap())
        });
        let views: BTreeMap<&str, TensorView<'_>> = views.collect();
        let path = folder.join(name);
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        path
    }

    #[test]
    fn the_tensor_that_is_furthest_away_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, tensors: &[(&str, &[f32])]| file(folder.path(), name, tensors);
        let old = file("old", &[("a", &[1.0, 2.0]), ("b", &[4.0, -8.0]), ("c", &[1.0])]);
        let new = file("new", &[("a", &[1.0, 2.5]), ("b", &[4.0, -7.0]), ("c", &[1.0])]);
        let found = difference_of_tensors(&old, &new).unwrap();
        assert_eq!(found.relative, Some(0.25));
        assert_eq!(
            found.what,
            ", tensor `a`: numbers are 5.000e-1 apart, 2.5e-1 of its largest, and another tensor differs"
        );
        let nan = file("nan", &[("a", &[1.0, 2.0]), ("b", &[f32::NAN, -8.0]), ("c", &[1.0])]);
        assert_eq!(difference_of_tensors(&old, &nan).unwrap().relative, Some(f64::INFINITY));
        let fewer = file("fewer", &[("a", &[1.0, 2.0]), ("b", &[4.0, -8.0])]);
        let found = difference_of_tensors(&old, &fewer).unwrap();
        assert_eq!(
            (found.what.as_str(), found.relative),
            (", tensor `c` is in one of the two only", None)
        );
        let text = folder.path().join("text");
        std::fs::write(&text, "no tensors at all").unwrap();
        assert_eq!(difference_of_tensors(&old, &text), None);
    }
}
