// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/log"
)

// steps says where the time of a call goes, in one line of the debug log.
type steps struct {
	last time.Time
	line strings.Builder
}

func newSteps() *steps { return &steps{last: time.Now()} }

// done ends a step.
func (s *steps) done(name string) {
	now := time.Now()
	fmt.Fprintf(&s.line, " %s=%s", name, now.Sub(s.last).Round(10*time.Microsecond))
	s.last = now
}

func (s *steps) log(ctx context.Context, what, id string) {
	log.G(ctx).WithField("instance", id).Debugf("%s took%s", what, s.line.String())
}
