//! What a data dir lies on, as far as it matters to what is kept there.

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// One that keeps what is synced, as far as its name tells.
    Lasting,
    /// In memory: gone with a reboot.
    Memory,
    /// The writable layer of a container or a live system: gone with it.
    Layer,
    /// Behind a network or another program, with this name: locks and syncs are as good as theirs.
    Remote(&'static str),
}

impl FileSystem {
    /// By the number that statfs(2) gives, see `linux/magic.h`.
    pub(crate) fn of_magic(magic: u32) -> Self {
        match magic {
            0x0102_1994 | 0x8584_58F6 => Self::Memory,
            0x794C_7630 => Self::Layer,
            0x6969 => Self::Remote("NFS"),
            0x517B | 0xFE53_4D42 => Self::Remote("SMB"),
            0xFF53_4D42 => Self::Remote("CIFS"),
            0x6573_5546 => Self::Remote("FUSE"),
            0x0102_1997 => Self::Remote("9P"),
            0x5346_414F | 0x6B41_4653 => Self::Remote("AFS"),
            0x00C3_6400 => Self::Remote("Ceph"),
            0x7375_7245 => Self::Remote("Coda"),
            0x0BD0_0BD0 => Self::Remote("Lustre"),
            0x4750_4653 => Self::Remote("GPFS"),
            0x1983_0326 => Self::Remote("BeeGFS"),
            0x786F_4256 => Self::Remote("a folder shared with a virtual machine"),
            _ => Self::Lasting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_33_network_file_systems_are_told_from_local_ones() {
        // ext4, xfs, btrfs, zfs, f2fs.
        for magic in [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0xF2F5_2010] {
            assert_eq!(FileSystem::of_magic(magic), FileSystem::Lasting);
        }
        assert_eq!(FileSystem::of_magic(0x0102_1994), FileSystem::Memory);
        assert_eq!(FileSystem::of_magic(0x794C_7630), FileSystem::Layer);
        assert_eq!(FileSystem::of_magic(0x6969), FileSystem::Remote("NFS"));
    }
}
