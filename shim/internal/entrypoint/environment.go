// SPDX-License-Identifier: Apache-2.0

package entrypoint

import (
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxPasswd is how much of a container's /etc/passwd is read, in bytes.
const maxPasswd = 1 << 20

// Environment is the environment of spec's process as runc makes it: of several
// variables of one name the last one counts, and where HOME is missing or empty
// it comes from the container's /etc/passwd, or is "/". A native program for
// which that file is not seen from here gets none: libcontainer looks for it in
// the container.
func Environment(spec *specs.Spec, bundle, rootfs string, kind Kind) []string {
	var env []string
	seen := map[string]bool{}
	for _, kv := range slices.Backward(spec.Process.Env) {
		name, _, _ := strings.Cut(kv, "=")
		if !seen[name] && kv != "HOME=" {
			env = append(env, kv)
		}
		seen[name] = true
	}
	slices.Reverse(env)
	if slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		return env
	}
	home, err := homeOf(spec, bundle, rootfs)
	if errors.Is(err, ErrUnknown) && kind == Native {
		return env
	}
	return append(env, "HOME="+home)
}

// homeOf is never without a directory; an error says why it is not the one of
// the container's /etc/passwd.
func homeOf(spec *specs.Spec, bundle, rootfs string) (string, error) {
	const none = "/"
	v, err := newView(spec, bundle, rootfs)
	if err != nil {
		return none, err
	}
	defer v.close()
	f, err := v.open("/etc/passwd")
	if errdefs.IsNotFound(err) && makesFiles(spec.Hooks) {
		err = ErrUnknown
	}
	if err != nil {
		return none, err
	}
	defer f.close()
	passwd, err := f.read()
	if err != nil {
		return none, err
	}
	defer passwd.Close()
	users, err := user.ParsePasswdFilter(io.LimitReader(passwd, maxPasswd), func(u user.User) bool { return u.Uid == int(spec.Process.User.UID) })
	if err != nil || len(users) == 0 {
		return none, err
	}
	return users[0].Home, nil
}
