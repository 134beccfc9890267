// SPDX-License-Identifier: Apache-2.0

// Package doctor looks for what keeps a runtime's containers from running: on this
// machine, in a containerd, in its configuration, and by a trial.
package doctor

import "fmt"

// State says how good a finding is.
type State string

// States of findings.
const (
	OK      State = "ok"
	Note    State = "note"    // works, and there is something to know
	Problem State = "problem" // containers do not run, or not as they should
)

// Finding is what was found about one thing.
type Finding struct {
	About string `json:"about"`
	State State  `json:"state"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what helps
}

func ok(about, format string, args ...any) Finding {
	return Finding{about, OK, fmt.Sprintf(format, args...), ""}
}

// but is a finding that is as it should be, but for something.
func (f Finding) but(state State, found, do string) Finding {
	f.State = state
	if f.Found != "" {
		f.Found += "; "
	}
	f.Found += found
	f.Do = do
	return f
}
