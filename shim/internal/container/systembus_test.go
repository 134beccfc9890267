// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/stretchr/testify/require"
)

// fakeBus is a system bus on which systemd refuses everything.
type fakeBus struct {
	open, calls atomic.Int64
}

func newFakeBus(t *testing.T) *fakeBus {
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	b := &fakeBus{}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.open.Add(1)
			go func() {
				defer b.open.Add(-1)
				defer conn.Close()
				b.serve(conn)
			}()
		}
	}()
	return b
}

func (b *fakeBus) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	_, _ = r.ReadByte() // the NUL that comes with the credentials
	for line := ""; !strings.HasPrefix(line, "BEGIN"); {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			return
		}
		answer := "ERROR"
		switch {
		case strings.HasPrefix(line, "AUTH EXTERNAL "), strings.HasPrefix(line, "DATA"):
			answer = "OK 0123456789abcdef0123456789abcdef"
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			answer = "DATA"
		case strings.HasPrefix(line, "AUTH"):
			answer = "REJECTED EXTERNAL"
		case strings.HasPrefix(line, "BEGIN"):
			continue
		}
		_, _ = conn.Write([]byte(answer + "\r\n"))
	}
	for serial := uint32(1); ; serial++ {
		call, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		answer := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
		}}
		switch call.Headers[dbus.FieldMember].Value() {
		case "Hello":
			answer.Body = []any{":1.1"}
			answer.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(""))
		case "AddMatch":
		default:
			b.calls.Add(1)
			answer.Type = dbus.TypeError
			answer.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.systemd1.NoSuchUnit")
		}
		var text bytes.Buffer
		if err := answer.EncodeTo(&text, binary.LittleEndian); err != nil {
			panic(err)
		}
		binary.LittleEndian.PutUint32(text.Bytes()[8:], serial) // which the package has no name for
		_, _ = conn.Write(text.Bytes())
	}
}

// TestBusIsLetGo: the systemd driver has no connection to the bus while nobody
// uses it, and gets a new one when somebody does.
func TestBusIsLetGo(t *testing.T) {
	b := newFakeBus(t)
	use := func() {
		m, err := systemd.NewLegacyManager(&cgroups.Cgroup{Name: "x", Resources: &cgroups.Resources{}}, map[string]string{"": filepath.Join(t.TempDir(), "gone")})
		require.NoError(t, err)
		require.NoError(t, m.Destroy())
	}
	none := func() bool { return b.open.Load() == 0 }
	for range 2 {
		before := b.calls.Load()
		done, other := useBus(true), useBus(true)
		use()
		require.Positive(t, b.open.Load())
		done()
		use()
		require.Positive(t, b.open.Load(), "closed while it was used")
		other()
		require.Eventually(t, none, 10*time.Second, time.Millisecond, "connections stay open")
		require.Greater(t, b.calls.Load(), before, "the fake bus was not used")
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			defer useBus(true)()
			use()
		})
	}
	wg.Wait()
	require.Eventually(t, none, 10*time.Second, time.Millisecond, "connections stay open")
}
