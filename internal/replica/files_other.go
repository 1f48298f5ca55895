//go:build !unix

package replica

import "io/fs"

func inode(fs.FileInfo) uint64 { return 0 }

// syncDirUnsupported: Windows has no fsync of directories.
func syncDirUnsupported(error) bool { return true }
