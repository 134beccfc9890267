// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// hog needs more memory than limit has.
var hog = []string{"/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"}

var limit = oci.WithMemoryLimit(64 << 20)

var ooms = []test{
	{"container", both, func(c *contract) {
		c.run(hog, limit)
		c.exits("", 137)
		c.tells("events", "create", "start", "oom", "exit")
		c.delete("")
		c.tells("events, deleted", "create", "start", "oom", "exit", "delete")
	}},
	{"exec", execs, func(c *contract) {
		c.sleeper(limit)
		// After its start was told: nothing says that a kill is told later.
		c.exec("e", shell("busybox sleep 0.2; exec "+strings.Join(hog, " ")), execConfig{})
		c.exits("e", 137)
		c.tells("events", "create", "start", "exec-added e", "exec-started e", "oom", "exit e")
		c.end()
		c.tells("events, deleted", "create", "start", "exec-added e", "exec-started e", "oom", "exit e", "exit", "delete")
	}},
	{"child", both, func(c *contract) {
		c.run(shell("busybox dd if=/dev/zero of=/dev/null bs=200M count=1; exit 3"), limit)
		c.exits("", 3)
		c.tells("events", "create", "start", "oom", "exit")
	}},
	{"the other of a pod", both, func(c *contract) {
		c.sleeper(limit)
		pod := c.ByHand
		c.createAs(harness.HandConfig{Args: hog, Shim: pod, Opts: []oci.SpecOpts{limit}})
		c.start("")
		c.exits("", 137)
		c.tells("events", "create", "start", "oom", "exit")
		c.delete("")
		c.ByHand = pod
		require.Equal(c, []string{"create", "start"}, c.told())
		c.end()
	}},
	{"killed by hand", noExecs, func(c *contract) {
		c.sleeper(limit)
		c.kill("", 9)
		c.exits("", 137)
		time.Sleep(50 * time.Millisecond)
		c.delete("")
		c.tells("events", "create", "start", "exit", "delete")
	}},
}
