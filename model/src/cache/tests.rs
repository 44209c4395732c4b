use proptest::prelude::*;

use super::*;
use crate::engine::{Cpu, Matrix, Precision};

const KINDS: [LayerKind; 3] = [LayerKind::Sliding, LayerKind::Global, LayerKind::Sliding];

/// Keys that say whose they are: row and position.
fn keys(cpu: &Cpu, of: &[(usize, usize)]) -> KvCache<Matrix> {
    let data = of.iter().flat_map(|&(row, position)| [row as f32, position as f32]).collect();
    let k = cpu.upload(data, [of.len(), 2]);
    KvCache { v: cpu.scale(k.clone(), 2.0), k }
}

/// One more position of every row, written to every layer; `rows` names those that are left.
fn step(cpu: &Cpu, cache: &mut Cache<Matrix>, rows: &[usize]) {
    cache.grow(cpu);
    let newest: Vec<_> = rows.iter().zip(&cache.lengths).map(|(&row, length)| (row, length - 1)).collect();
    let KvCache { k, v } = keys(cpu, &newest);
    cache.through(|layer, places| layer.write(cpu, places, &k, &v));
}

/// Every layer shows the newest position of each row the positions it may see, in order, and keeps no more than it must.
fn check(cpu: &Cpu, cache: &Cache<Matrix>, rows: &[usize], window: usize) {
    for (layer, kind) in cache.layers.iter().zip(KINDS) {
        let (k, v) = (cpu.download(&layer.k), cpu.download(&layer.v));
        assert!(v.iter().zip(&k).all(|(v, k)| *v == 2.0 * k), "values lie as keys do");
        let mut start = 0;
        for ((seen, &row), &length) in cache.seen(kind).iter().zip(rows).zip(&cache.lengths) {
            let [first, end] = seen.seen[0].map(|place| start + place as usize);
            let found: Vec<(usize, usize)> =
                (first..end).map(|place| (k[2 * place] as usize, k[2 * place + 1] as usize)).collect();
            let oldest = if kind == LayerKind::Sliding { length.saturating_sub(window) } else { 0 };
            assert_eq!(found, (oldest..length).map(|position| (row, position)).collect::<Vec<_>>(), "{kind:?}");
            start += seen.n_keys;
        }
        assert_eq!(start, cpu.shape(&layer.k)[0], "rows fill the cache");
        if kind == LayerKind::Sliding {
            assert!(start <= rows.len() * (window - 1 + SPARE), "a window's worth: {start} places");
        }
    }
}

proptest! {
    /// Whatever the prompts, the window, the steps, and the rows that leave on the way.
    #[test]
    fn the_newest_position_sees_its_window_and_no_more_is_kept(
        lengths in prop::collection::vec(1..200_usize, 1..5),
        window in 1..90_usize,
        leave in prop::collection::vec((1..80_usize, any::<prop::sample::Index>()), 0..4),
    ) {
        let cpu = Cpu::new(Precision::F32);
        let mut rows: Vec<usize> = (0..lengths.len()).collect();
        let mut cache = Cache::new(&lengths, window, &KINDS);
        let prompts: Vec<_> = rows.iter().flat_map(|&row| (0..lengths[row]).map(move |at| (row, at))).collect();
        KINDS.iter().for_each(|_| cache.push(&cpu, &keys(&cpu, &prompts)));
        for (steps, who) in leave {
            for _ in 0..steps {
                step(&cpu, &mut cache, &rows);
                check(&cpu, &cache, &rows, window);
            }
            if rows.len() > 1 {
                let gone = who.index(rows.len());
                let kept: Vec<usize> = (0..rows.len()).filter(|&i| i != gone).collect();
                cache.retain(&cpu, &kept);
                rows.remove(gone);
            }
        }
    }
}
