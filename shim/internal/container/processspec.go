// SPDX-License-Identifier: Apache-2.0

package container

import (
	"strconv"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// newProcess turns p into libcontainer's form, field by field as runc's
// utils_linux.go does.
func newProcess(p Process, init bool) (*libcontainer.Process, error) {
	if err := ValidateProcess(p.Spec); err != nil {
		return nil, err
	}
	if len(p.Args) == 0 || p.Args[0] == "" {
		return nil, invalid("process.args is empty; it must name a program")
	}
	s := p.Spec
	if s.SelinuxLabel != "" && !selinux.GetEnabled() {
		return nil, invalid("process.selinuxLabel is %q, but SELinux is off on this host", s.SelinuxLabel)
	}
	lp := &libcontainer.Process{
		Init:            init,
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(s.User.UID),
		GID:             int(s.User.GID),
		Cwd:             s.Cwd,
		Label:           s.SelinuxLabel,
		NoNewPrivileges: &s.NoNewPrivileges,
		AppArmorProfile: s.ApparmorProfile,
		Scheduler:       s.Scheduler,
		IOPriority:      s.IOPriority,
		ExtraFiles:      p.ExtraFiles,
		LogLevel:        strconv.Itoa(int(logrus.GetLevel())),
	}
	// A nil *os.File in an interface is not a nil interface: os/exec would take
	// it for a stream.
	if p.Stdin != nil {
		lp.Stdin = p.Stdin
	}
	if p.Stdout != nil {
		lp.Stdout = p.Stdout
	}
	if p.Stderr != nil {
		lp.Stderr = p.Stderr
	}
	if size := s.ConsoleSize; size != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(size.Width), uint16(size.Height)
	}
	for _, g := range s.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if c := s.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding:    c.Bounding,
			Effective:   c.Effective,
			Inheritable: c.Inheritable,
			Permitted:   c.Permitted,
			Ambient:     c.Ambient,
		}
	}
	var err error
	if lp.Rlimits, err = newRlimits(s.Rlimits); err != nil {
		return nil, err
	}
	if lp.CPUAffinity, err = configs.ConvertCPUAffinity(s.ExecCPUAffinity); err != nil {
		return nil, invalid("process.execCPUAffinity: %v", err)
	}
	return lp, nil
}

var rlimits = map[string]int{
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
}

func newRlimits(specs []specs.POSIXRlimit) ([]configs.Rlimit, error) {
	limits := make([]configs.Rlimit, 0, len(specs))
	for _, r := range specs {
		t, ok := rlimits[r.Type]
		if !ok {
			return nil, invalid("process.rlimits has type %q; it must be one of setrlimit(2), like RLIMIT_NOFILE", r.Type)
		}
		limits = append(limits, configs.Rlimit{Type: t, Hard: r.Hard, Soft: r.Soft})
	}
	return limits, nil
}
