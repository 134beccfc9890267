// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"flag"
	"os"
	"testing"
)

// difference is where runc's shim does not do what the case wants and ours does.
type difference struct {
	runcs     []any // what runc's shim does; code names for errors
	sometimes bool  // it does what the case wants, too
	dies      bool  // it would not live through it
	why       string
}

// unknown is an error without a code.
var unknown = []any{"Unknown"}

const (
	coded  = "containerd and its clients decide by codes: whoever may try again, and whoever must not, is told by them"
	argued = "what is wrong with a request is said with a code, and before anything is changed"
)

// differences are keyed by the case and what it looks at. What the case wants is
// right.
var differences = map[string]difference{
	"run/each containerd's dialect: starts for 1.7": {runcs: []any{false}, why: "one binary serves every containerd; runc's shim comes with its own"},
	"run/each containerd's dialect: starts for 1.6": {runcs: []any{false}, why: "the same"},

	"exec/a life: delete of a running exec":             {runcs: unknown, why: coded},
	"exec/start twice: start twice":                     {dies: true, why: "runc's shim counts the exec twice, and panics when the container ends"},
	`exec/bad ids: ""`:                                  {runcs: []any{"OK"}, why: "an exec without an id cannot be asked for: that is the container's init"},
	`exec/bad ids: "../x"`:                              {runcs: []any{"OK"}, why: "runc's shim makes a file of that name"},
	`exec/bad ids: "a/b"`:                               {runcs: []any{"OK"}, why: "the same"},
	"exec/unknown id: closeIO":                          {runcs: unknown, why: coded},
	"exec/missing program: no such file":                {runcs: unknown, why: coded},
	"exec/missing program: not in PATH":                 {runcs: unknown, why: coded},
	"exec/missing program: a directory":                 {runcs: unknown, why: coded},
	"exec/missing program: no program":                  {runcs: unknown, why: coded},
	"exec/start after a start that failed: start again": {dies: true, why: "runc's shim closes a channel twice, and panics"},
	"exec/no spec: exec without a spec":                 {dies: true, why: "runc's shim reads a nil pointer"},
	"exec/bad specs: of another type":                   {runcs: []any{"Unknown"}, why: argued},
	"exec/bad specs: no JSON":                           {runcs: []any{"Unknown"}, why: argued},
	"exec/bad specs: no args":                           {runcs: []any{"OK"}, why: argued},
	"exec/bad specs: relative cwd":                      {runcs: []any{"OK"}, why: argued},
	"exec/a wait ends with the container: ends":         {runcs: []any{false}, why: "an exec that cannot be started any more has ended; runc's shim leaves its waiters for ever"},
	"storm/an exec that has left the cgroup holds up nobody: init's exit is told": {runcs: []any{false}, why: "runc's shim waits for the exec for ever, and the container's end is never known"},
	"exec/stopped container: exec":                                           {runcs: unknown, why: coded},
	"exec/stdin is closed before the start: ends":                            {runcs: []any{false}, sometimes: true, why: "who closes a stdin wants it to end, whenever it was asked"},
	"exec/a background child holds the output: deleted within three seconds": {runcs: []any{false}, why: "runc's shim waits ten seconds for the output of a child that may live for ever"},
	"exec/streams that do not exist: exec or start":                          {runcs: unknown, why: coded},

	"terminal/resized before the start, exec: first size": {runcs: []any{"stty: standard input"}, why: "runc's shim forgets the size that an exec's terminal is to have: the program's first output has the wrong width"},

	"pause/pause and resume: pause twice":        {runcs: unknown, why: coded},
	"pause/pause and resume: start":              {runcs: unknown, why: coded},
	"pause/pause and resume: delete":             {runcs: unknown, why: coded},
	"pause/pause and resume: resume twice":       {runcs: unknown, why: coded},
	"pause/execs: exec":                          {runcs: unknown, why: coded},
	"pause/execs: start":                         {runcs: unknown, why: coded},
	"pause/execs: start, resumed":                {dies: true, why: "a start that was refused for now is none that failed; runc's shim panics at the second"},
	"pause/created and stopped: pause, created":  {runcs: unknown, why: coded},
	"pause/created and stopped: resume, created": {runcs: unknown, why: coded},
	"pause/created and stopped: pause, stopped":  {runcs: unknown, why: coded},
	"pause/created and stopped: resume, stopped": {runcs: unknown, why: coded},
	"update/in each state: stopped":              {runcs: unknown, why: coded},

	"update/a refused value changes nothing: period":                    {runcs: unknown, why: argued},
	"update/a refused value changes nothing: memory after it":           {runcs: []any{uint64(96 << 20)}, why: "a container must not be left between two sets of limits"},
	"update/a refused value changes nothing: shares after it":           {runcs: []any{"100"}, why: "the same"},
	"update/a refused value changes nothing: memory below what is used": {runcs: unknown, why: argued},
	"update/a refused value changes nothing: cpus that there are not":   {runcs: unknown, why: argued},
	"update/no resources: update without resources":                     {dies: true, why: "runc's shim reads a nil pointer"},
	"update/a refused value changes nothing: of another type":           {runcs: unknown, why: argued},
	"update/a refused value changes nothing: no JSON":                   {runcs: unknown, why: argued},
}

// seen are the differences that were looked at.
var seen = map[string]bool{}

// TestDifferences fails when differences has what no case looks at any more. It
// stands behind TestContract.
func TestDifferences(t *testing.T) {
	if place == nil || os.Getenv("WASMSHIM_CONTRACT_RUNTIME") != "" || flag.Lookup("test.run").Value.String() != "" {
		t.Skip("needs that the whole of TestContract has run")
	}
	for key, d := range differences {
		if !seen[key] {
			t.Errorf("no case looks at %q (%s)", key, d.why)
		}
	}
}
