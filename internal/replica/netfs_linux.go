package replica

import (
	"fmt"
	"syscall"
)

// networkFileSystems are the magic numbers of statfs(2) on Linux.
var networkFileSystems = map[uint32]string{
	0x6969:     "nfs",
	0x517b:     "smb",
	0xfe534d42: "smb2",
	0xff534d42: "cifs",
	0x564c:     "ncp",
	0x5346414f: "afs",
	0x6b414653: "kafs",
	0x73757245: "coda",
	0x01021997: "9p",
	0x00c36400: "ceph",
	0x0bd00bd0: "lustre",
}

// checkFileSystem refuses directories on network file systems.
func checkFileSystem(dir string) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return nil // not detectable
	}
	if name, ok := networkFileSystems[uint32(s.Type)]; ok {
		return &FileError{Path: dir, Err: ErrNetworkFileSystem, Why: fmt.Errorf("file system is %s", name)}
	}
	return nil
}
