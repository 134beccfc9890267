// SPDX-License-Identifier: Apache-2.0

package rootless

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if os.Getenv("SAY") != "" {
		fmt.Fprintln(os.Stdout, Is(), RunDir(), strings.Join(Env(), " "))
		return
	}
	os.Exit(m.Run())
}

// In a user namespace all is in the user's directory, if there is one, and of the machine's
// root in /run, as everywhere else.
func TestNamespace(t *testing.T) {
	for name, test := range map[string]struct {
		user bool
		env  []string
		want string
	}{
		"no namespace":   {false, []string{"XDG_RUNTIME_DIR=/run/user/0", "PATH=/bin"}, "false /run "},
		"a user":         {true, []string{"XDG_RUNTIME_DIR=/run/user/7/", "USER=me"}, "true /run/user/7 XDG_RUNTIME_DIR=/run/user/7/ USER=me"},
		"no name":        {true, []string{"XDG_RUNTIME_DIR=/run/user/7"}, "true /run/user/7 XDG_RUNTIME_DIR=/run/user/7"},
		"root":           {true, []string{"XDG_RUNTIME_DIR=/run/user/0", "USER=root"}, "true /run XDG_RUNTIME_DIR=/run/user/0 USER=root"},
		"no directory":   {true, []string{"USER=me", "HOME=/x"}, "true /run USER=me"},
		"a relative one": {true, []string{"XDG_RUNTIME_DIR=x"}, "true /run XDG_RUNTIME_DIR=x"},
	} {
		t.Run(name, func(t *testing.T) {
			exe, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(exe)
			cmd.Env = append(test.env, "SAY=1")
			if test.user {
				ids := func(id int) []syscall.SysProcIDMap {
					return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
				}
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid())}
			}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Equal(t, test.want+"\n", string(out))
		})
	}
}
