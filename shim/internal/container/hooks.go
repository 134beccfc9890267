// SPDX-License-Identifier: Apache-2.0

package container

import (
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// withHookEnv gives the hooks in the container that name no environment the one
// of the spec's process. libcontainer would give them that of the process that
// it starts, which may be another.
func withHookEnv(config *configs.Config, cfg Config, p Process) {
	if !slices.Equal(p.Env, cfg.Spec.Process.Env) {
		config.Hooks[configs.StartContainer].SetDefaultEnv(cfg.Spec.Process.Env)
	}
}

// inBundle calls f, which may run hooks of lc, on a thread of its own whose
// working directory is the bundle: hooks inherit it, as they do from runc, which
// is there itself.
func inBundle(lc *libcontainer.Container, f func() error) error {
	if len(lc.Config().Hooks) == 0 {
		return f()
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		// Without a directory of its own, the thread would move the whole daemon. And
		// a bundle that is gone is no reason to leave a container.
		if bundle := bundleOf(lc); bundle != "" && unix.Unshare(unix.CLONE_FS) == nil {
			_ = unix.Chdir(bundle)
		}
		result <- f()
	}()
	return <-result
}

// bundleOf is the bundle of a container, by the label that newConfig has set.
func bundleOf(lc *libcontainer.Container) string {
	for _, l := range slices.Backward(lc.Config().Labels) {
		if bundle, ok := strings.CutPrefix(l, "bundle="); ok {
			return bundle
		}
	}
	return ""
}
