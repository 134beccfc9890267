// SPDX-License-Identifier: Apache-2.0

package container

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/memfile"
)

// execLabel is what AppArmor and SELinux are to make of an exec at its execve, where
// libcontainer cannot set it: it writes to the container's own /proc, which for guests is
// read-only, and in a user namespace its stages can have no other. They are handed the
// host's, and cmd/libwasmshim-init does it.
type execLabel struct {
	apparmor string // a profile; "" says nothing
	selinux  string // a context; "" says nothing
}

// takeLabel takes SELinux's label out of the config of a container whose execs cannot be
// labelled by libcontainer, which would try; the init has it from its process, and so has
// each exec AppArmor's profile. It returns nil for any other container.
func takeLabel(config *configs.Config, spec *specs.Spec) *execLabel {
	if !config.Namespaces.Contains(configs.NEWUSER) || !readOnlyProc(spec) {
		return nil
	}
	label := &execLabel{selinux: config.ProcessLabel}
	config.ProcessLabel = ""
	return label
}

func readOnlyProc(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool {
		return isAtProc(m) && slices.Contains(m.Options, "ro")
	})
}

// files are what the stage of an exec finds its label in: to be the last of its extra
// files. The caller closes them.
func (l execLabel) files() ([]*os.File, error) {
	var text strings.Builder
	if l.apparmor != "" {
		attr := "attr/apparmor/exec"
		if _, err := os.Stat("/proc/self/" + attr); err != nil { // it came with Linux 5.8
			attr = "attr/exec"
		}
		fmt.Fprintf(&text, "%s\x00exec %s\x00", attr, l.apparmor)
	}
	if l.selinux != "" {
		fmt.Fprintf(&text, "attr/exec\x00%s\x00", l.selinux)
	}
	label, err := memfile.Sealed("wasmshim-label", []byte(text.String()))
	if err != nil {
		return nil, fmt.Errorf("write the label of an exec: %w", err)
	}
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		label.Close()
		return nil, fmt.Errorf("open the host's /proc: %w", err)
	}
	return []*os.File{label, os.NewFile(uintptr(fd), "/proc")}, nil
}

// labelExec hands an exec its label; done is called when it has started.
func (c *Container) labelExec(lp *libcontainer.Process) (done func(), _ error) {
	if c.label == nil {
		return func() {}, nil
	}
	label := execLabel{lp.AppArmorProfile, cmp.Or(lp.Label, c.label.selinux)}
	if label == (execLabel{}) {
		return func() {}, nil
	}
	files, err := label.files()
	if err != nil {
		return nil, err
	}
	lp.AppArmorProfile, lp.Label = "", ""
	lp.ExtraFiles = append(slices.Clip(lp.ExtraFiles), files...)
	return func() {
		for _, f := range files {
			f.Close()
		}
	}, nil
}
