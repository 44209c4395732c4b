use std::num::NonZeroUsize;

use super::*;

fn files(dir: &Path) -> DemoFiles {
    let data = dir.join("data");
    DemoFiles {
        base: dir.join("base"),
        train: vec![data.join("train 0.parquet"), data.join("train 1.parquet")],
        held_out: data.join("held-out.parquet"),
        held_out_blank: data.join("blank.parquet"),
        held_out_wrong_page: data.join("wrong.parquet"),
    }
}

#[test]
fn somebody_elses_folder_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = dir.path().join("data");
    fs::create_dir(&theirs).unwrap();
    let error = take_folder(dir.path()).unwrap_err();
    assert!(matches!(error, Error::ForeignDir(_)), "{error}");
    assert!(theirs.exists() && fs::read_dir(dir.path()).unwrap().count() == 1);
}

#[test]
fn an_earlier_demos_results_are_replaced_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new");
    take_folder(&dir).unwrap();
    for name in MADE {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::create_dir(dir.join("notes")).unwrap();
    take_folder(&dir).unwrap();
    let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [MARKER, "notes"]);
}

#[test]
fn the_demos_config_is_the_tiny_one_with_its_own_paths() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder { dir: dir.path().to_owned(), files: files(dir.path()) };
    let config = folder.write_config(&Size::of(false), 400, 2).unwrap();
    assert_eq!(Config::load(&folder.config_path(), &[]).unwrap(), config);
    assert_eq!(config.model.path, dir.path().join("base").to_string_lossy());
    assert_eq!(config.data.train.len(), 2);
    assert_eq!(config.train.max_steps, Some(400));
}

#[test]
fn every_worker_has_a_micro_batch() {
    for (small, n_workers, expected) in
        [(false, 1, 16), (false, 2, 16), (false, 3, 8), (false, 4, 8), (false, 32, 1), (false, 64, 1), (true, 2, 8)]
    {
        assert_eq!(Size::of(small).micro_batch_size(n_workers), expected, "{n_workers}");
    }
}

#[test]
fn full_and_small_are_the_recipes() {
    let one = NonZeroUsize::MIN;
    let (full, small) = (Size::of(false), Size::of(true));
    assert_eq!((full.spec.questions.len(), full.global_batch_size, full.enough_steps), (4, 32, 400));
    assert_eq!((small.spec.questions.len(), small.global_batch_size, small.enough_steps), (3, 16, 300));
    assert_eq!(DemoSpec { n_threads: one, ..full.spec }, DemoSpec::full(SEED, one));
}
