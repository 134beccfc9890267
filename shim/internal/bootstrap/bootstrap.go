// SPDX-License-Identifier: Apache-2.0

// Package bootstrap answers containerd when it execs the binary: start,
// delete and -info, in the dialect of each containerd, and runs the daemon
// that a start leaves behind.
package bootstrap

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// Engine is what the daemon knows of the engine.
type Engine struct {
	ShimName string // as in the runtime's name
	Version  string
	Revision string
	Code     image.Engine // which code it takes
	Options  []options.Declaration
	LogLevel string // logrus name; "" means info
	NoLogger bool   // leave the logger alone
}

// Runtime is the name under which containerd knows this shim.
func (e Engine) Runtime() string {
	return "io.containerd." + e.ShimName + ".v1"
}

// Binary is the name of this shim's file, as containerd looks for it.
func (e Engine) Binary() string {
	return "containerd-shim-" + e.ShimName + "-v1"
}

// invocation is one call of the binary by containerd.
type invocation struct {
	namespace string
	id        string
	address   string // containerd's gRPC socket
	bundle    string // absolute
	debug     bool
	info      bool
	action    string // "start", "delete" or ""
}

// Called says whether args are containerd's calling convention and not a
// person's, whose command comes first.
func Called(args []string) bool {
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") {
		return len(args) == 1 && isAction(args[0])
	}
	for _, a := range args {
		switch strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-") {
		case a: // no flag
		case "info", "namespace", "publish-binary":
			return true
		}
	}
	return isAction(args[len(args)-1])
}

func isAction(word string) bool { return word == "start" || word == "delete" }

// parseInvocation parses containerd's flags. started says that the action is start:
// the daemon's command line has lost the word.
func parseInvocation(args []string, started bool) (invocation, error) {
	var c invocation
	fs := flag.NewFlagSet("containerd-shim", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&c.namespace, "namespace", "", "")
	fs.StringVar(&c.id, "id", "", "")
	fs.StringVar(&c.address, "address", "", "")
	fs.StringVar(&c.bundle, "bundle", "", "")
	fs.BoolVar(&c.debug, "debug", false, "")
	fs.BoolVar(&c.info, "info", false, "")
	fs.String("publish-binary", "", "") // events go to TTRPC_ADDRESS
	fs.String("socket", "", "")
	fs.String("debug-socket", "", "")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	if c.info {
		return c, nil
	}
	c.action = fs.Arg(0)
	if started {
		c.action = "start"
	}
	if c.action != "start" && c.action != "delete" {
		return c, fmt.Errorf("unknown action %q: containerd calls a shim with start, delete or -info", c.action)
	}
	if c.namespace == "" {
		return c, fmt.Errorf("%s needs -namespace, the containerd namespace of the container", c.action)
	}
	if !container.ValidID(c.id) {
		return c, fmt.Errorf("%s needs -id, the id of the container: found %q", c.action, c.id)
	}
	cwd, err := os.Getwd()
	if err != nil {
		return c, fmt.Errorf("working directory, which is the bundle: %w", err)
	}
	if c.bundle == "" {
		c.bundle = cwd
		// containerd's manager may call for another container of the same
		// directory.
		if c.action == "delete" {
			c.bundle = filepath.Join(filepath.Dir(cwd), c.id)
		}
	}
	if !filepath.IsAbs(c.bundle) {
		c.bundle = filepath.Join(cwd, c.bundle)
	}
	return c, nil
}

// Start is what was done of a start before Run: the fork alone, or all that containerd
// waits for, which is what cabi/start.c does if it can.
type Start struct {
	Result   int    // descriptor on which the answer is waited for; -1 where it was given
	Listener int    // descriptor of the socket that the answer has named; -1 where none was given
	Input    []byte // what was read of standard input
}

// Run does what containerd asks for and returns the exit code. s is nil but where the
// daemon's half of start is asked for.
func Run(e Engine, args []string, s *Start) int {
	c, err := parseInvocation(args, s != nil)
	switch {
	case s != nil && s.Listener >= 0:
		return goOn(e, c, err, *s)
	case s != nil && err != nil:
		return e.refuse(os.NewFile(uintptr(s.Result), "result"), err)
	case s != nil:
		return start(e, c, *s)
	case err != nil:
	case c.info:
		err = info(e, os.Stdin, os.Stdout)
	case c.action == "delete":
		err = remove(c, os.Stdout)
	default:
		err = errors.New("start was not forked") // cannot happen: both kinds of shims do it
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", e.Runtime(), err)
		return 1
	}
	return 0
}
