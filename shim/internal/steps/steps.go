// SPDX-License-Identifier: Apache-2.0

// Package steps says where the time of a call goes, in one line of the debug
// log.
package steps

import (
	"fmt"
	"strings"
	"time"

	"github.com/containerd/log"
)

// Steps measures the steps of one call. It is for one goroutine.
type Steps struct {
	last time.Time
	line strings.Builder
}

// New starts the first step.
func New() *Steps { return &Steps{last: time.Now()} }

// Done ends a step and starts the next.
func (s *Steps) Done(name string) {
	now := time.Now()
	fmt.Fprintf(&s.line, " %s=%s", name, now.Sub(s.last).Round(10*time.Microsecond))
	s.last = now
}

// Log writes the line for what was done.
func (s *Steps) Log(logger *log.Entry, what string) {
	logger.Debugf("%s took%s", what, s.line.String())
}
