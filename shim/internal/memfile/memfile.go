// SPDX-License-Identifier: Apache-2.0

// Package memfile makes files in memory that other processes inherit, and that
// nobody can change once they are sealed.
package memfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// New returns an empty file, for writing; the name is for /proc. Until it is sealed,
// only root can open it by its name there. The caller closes it.
func New(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Chmod(0o600); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Sealed returns a file with a content, sealed. The caller closes it.
func Sealed(name string, content []byte) (*os.File, error) {
	f, err := New(name)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(content)
	if err == nil {
		err = Seal(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Seal makes a file unchangeable, for whoever has it and for good.
func Seal(f *os.File) error {
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return os.NewSyscallError("seal memory file "+f.Name(), err)
	}
	return f.Chmod(0o444)
}
