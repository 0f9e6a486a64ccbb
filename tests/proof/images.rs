//! What a power cut may leave: for each cell that was written and not synced, all of it, nothing, or a
//! part.

use crate::draw::Draw;

/// All of a cell.
const WHOLE: usize = usize::MAX;
/// Up to so many pending cells every subset of them is tried.
const SUBSETS_OF_MAX: usize = 4;

/// Ways to keep a part of the pending cells, as how many bytes of each: all subsets if they are few,
/// else none, all, and a sample of prefixes, single omissions, subsets and torn cells.
pub(crate) fn ways(pending: usize, samples: usize, draw: &mut Draw) -> Vec<Vec<usize>> {
    let all = |keep: &dyn Fn(usize) -> bool| -> Vec<usize> {
        (0..pending)
            .map(|cell| if keep(cell) { WHOLE } else { 0 })
            .collect()
    };
    if pending == 0 {
        return vec![Vec::new()];
    }
    if pending <= SUBSETS_OF_MAX {
        return (0..1_u32 << pending)
            .map(|subset| all(&|cell| subset >> cell & 1 == 1))
            .collect();
    }
    let mut ways = vec![all(&|_| false), all(&|_| true)];
    for _ in 0..samples {
        let at = draw.below(pending as u64) as usize;
        ways.push(all(&|cell| cell < at));
        ways.push(all(&|cell| cell != at));
        let kept: Vec<bool> = (0..pending).map(|_| draw.below(2) == 0).collect();
        ways.push(all(&|cell| kept[cell]));
        let mut torn = all(&|_| true);
        torn[at] = draw.below(512) as usize;
        ways.push(torn);
    }
    ways
}
