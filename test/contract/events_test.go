// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"fmt"
	"slices"
	"strings"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// told are the events of the container so far, as texts: the topic, and the exec's id
// for an exec's.
func (c *contract) told() []string {
	var told []string
	for _, event := range events.Of(c.ID) {
		exec := ""
		switch body := event.Body.(type) {
		case *apievents.TaskExit:
			if body.ID != c.ID {
				exec = body.ID
			}
		case interface{ GetExecID() string }:
			exec = body.GetExecID()
		}
		told = append(told, strings.TrimSpace(event.Topic+" "+exec))
	}
	return told
}

// tells waits until the container's events are these, in this order, and each once.
func (c *contract) tells(what string, want ...string) {
	c.Helper()
	c.waitTold(want)
	time.Sleep(10 * time.Millisecond) // nothing may follow
	told := strings.Join(c.told(), ", ")
	if c.runtime == smoke.Runc {
		// Its shim answers a wait before it has told the exit, and sends what a delete
		// tells past it.
		told = strings.Replace(told, ", delete, exit", ", exit, delete", 1)
	}
	c.same(what, strings.Join(want, ", "), told)
}

// waitTold waits until all of these were told.
func (c *contract) waitTold(want []string) {
	deadline := time.Now().Add(harness.Slow(3 * time.Second))
	for time.Now().Before(deadline) {
		told := c.told()
		if !slices.ContainsFunc(want, func(one string) bool { return !slices.Contains(told, one) }) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// exitTold is a process's exit event.
func (c *contract) exitTold(exec string) *apievents.TaskExit {
	c.Helper()
	id := exec
	if id == "" {
		id = c.ID
	}
	var found *apievents.TaskExit
	c.eventually(fmt.Sprintf("exit of %q is told", exec), func() bool {
		for _, event := range events.Of(c.ID) {
			if exit, ok := event.Body.(*apievents.TaskExit); ok && exit.ID == id {
				found = exit
			}
		}
		return found != nil
	})
	return found
}

// before fails if the events of the container have not both, in this order.
func (c *contract) before(first, second string) {
	c.Helper()
	told := c.told()
	i, j := slices.Index(told, first), slices.Index(told, second)
	require.GreaterOrEqual(c, i, 0, "no %q in %v", first, told)
	require.GreaterOrEqual(c, j, 0, "no %q in %v", second, told)
	require.Less(c, i, j, "%q comes before %q: %v", first, second, told)
}
