// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/task"
)

// nodeTest is a daemon of the node without containers.
type nodeTest struct {
	place
	starter
	dir  string
	req  request
	logs logs
}

func newNodeTest(t *testing.T, places int) *nodeTest {
	s := &nodeTest{starter: buildStarter(t), dir: shortDir(t)}
	input := marshal(t, usual(s.dir, &runtimeoptions.Options{ConfigBody: []byte("daemon = 'node'")}))
	e := Engine{ShimName: "test"}
	c, err := parseInvocation([]string{"-namespace", "ns", "-address", "/c.sock", "-id", "one"}, true)
	require.NoError(t, err)
	s.req = parseRequest(input, e, c)
	require.NotEmpty(t, s.req.given)
	slot, err := slotPath(s.program, e, c, s.req, 0)
	require.NoError(t, err)
	s.place, err = makeSlot(slot, filepath.Join(s.dir, "first"))
	require.NoError(t, err)
	t.Cleanup(s.Close)
	service := task.New(t.Context(), task.Config{})
	service.ServeMany(places)
	require.True(t, service.Admit("first", func() {}, func() {}))
	go s.giveOut(service, &s.logs)
	return s
}

// start asks the part in C for a start, and returns the answer.
func (s *nodeTest) start(t *testing.T, id string) (answer, bundle string) {
	bundle = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{}"), 0o600))
	p := usual(s.dir, &runtimeoptions.Options{ConfigBody: []byte("daemon = 'node'")})
	p.InstanceID = id
	s.starter.answer(t, bundle, fmt.Sprintf("-namespace ns -address /c.sock -id %s start", id), nil, marshal(t, p), func(b []byte) { answer = string(b) })
	return answer, bundle
}

// C joins a daemon that has room, as Go would; whatever else there is, is for Go.
func TestJoinInC(t *testing.T) {
	s := newNodeTest(t, 3)
	for _, id := range []string{"one", "two"} {
		answer, bundle := s.start(t, id)
		link, err := socketPath(s.dir, "io.containerd.test.v1", "/c.sock", "ns", id)
		require.NoError(t, err)
		want, err := s.req.dialect.answer(scheme + link)
		require.NoError(t, err)
		require.Equal(t, "\x00"+string(want), answer)
		require.Equal(t, link, namedSocket(bundle))
		target, err := os.Readlink(link)
		require.NoError(t, err)
		require.Equal(t, s.daemon.path, target)
		require.Equal(t, served, useOf(link))

		again, _ := s.start(t, id)
		require.Equal(t, leftToGo, again, "it is there already")
	}
	full, bundle := s.start(t, "three")
	require.Equal(t, leftToGo, full)
	require.NoFileExists(t, filepath.Join(bundle, addressFile))
}

// Go asks the same daemon.
func TestJoinInGo(t *testing.T) {
	s := newNodeTest(t, 2)
	slot := s.slot.path
	require.Equal(t, s.daemon.path, ask(slot, "one", filepath.Join(s.dir, "one"), t.TempDir()))
	require.Empty(t, ask(slot, "two", filepath.Join(s.dir, "two"), t.TempDir()), "it is full")
	require.Equal(t, slot, slotOf(s.daemon.path))
}

// Of a daemon that was killed nothing stays, once its containers are cleaned up.
func TestNodeLeftovers(t *testing.T) {
	for name, end := range map[string]func(s *nodeTest){
		"killed": func(s *nodeTest) { s.daemon.UnixListener.Close(); s.slot.UnixListener.Close() },
		"ended":  func(s *nodeTest) { s.daemon.Close(); s.slot.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newNodeTest(t, 3)
			_, one := s.start(t, "one")
			_, two := s.start(t, "two")
			end(s)
			require.NoError(t, os.Remove(filepath.Join(s.dir, "first")))
			removeUnused(one)
			removeUnused(two)
			left, err := os.ReadDir(s.dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}
