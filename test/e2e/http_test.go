// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// Guests that answer HTTP, by WASI 0.2 and 0.3.
const (
	httpGuest  = "/component-http.wasm"
	http3Guest = "/component-http3.wasm"
)

var hostNetwork = oci.WithHostNamespace(specs.NetworkNamespace)

// needsHTTP skips where the shim serves no HTTP.
func needsHTTP(t *testing.T) {
	needsFull(t, "serves no HTTP")
}

// freePort is a port that nobody listens at.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// service is a container that answers HTTP.
type service struct {
	*harness.Container
	tt  *harness.T
	url string
}

// serve starts one, in the network of this process, and waits until it answers.
func serve(tt *harness.T, engine string) *service { return serveBy(tt, httpGuest, engine) }

func serveBy(tt *harness.T, guest, engine string) *service {
	port := freePort(tt.T)
	c := tt.Run(harness.Config{
		Image: smoke.Image(tt), Args: []string{guest}, Env: []string{"PORT=" + port},
		Opts: []oci.SpecOpts{hostNetwork}, RuntimeOptions: body("[engine]\n" + engine),
	})
	awaitPort(tt, c, "127.0.0.1:"+port)
	return &service{c, tt, "http://127.0.0.1:" + port}
}

func awaitPort(tt *harness.T, c *harness.Container, address string) {
	require.Eventually(tt, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, harness.Slow(30*time.Second), 10*time.Millisecond, "%s%s", c.Stdout, c.Stderr)
}

// client is one that shares no connection with another.
func httpClient(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: harness.Slow(30 * time.Second)}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	resp, err := c.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

func (s *service) requireHello() {
	s.tt.Helper()
	code, text := get(s.tt.T, httpClient(s.tt.T), s.url)
	require.Equal(s.tt, 200, code)
	require.Equal(s.tt, "hello\n", text)
}

// end stops it, as everybody does.
func (s *service) end() harness.Result {
	s.tt.Helper()
	require.NoError(s.tt, s.Task.Kill(s.tt.Ctx, syscall.SIGTERM))
	result, err := s.tt.Finish(s.Container)
	require.NoError(s.tt, err)
	require.Zero(s.tt, result.Code, "%+v", result)
	return result
}

// Both versions of HTTP, connections that stay, bodies that go both ways at once, and
// what comes after them.
func TestHTTPVersions(t *testing.T) {
	needsHTTP(t)
	for _, guest := range []string{httpGuest, http3Guest} {
		t.Run(guest, func(t *testing.T) { testVersions(t, guest) })
	}
}

func testVersions(t *testing.T, guest string) {
	tt := harness.New(t, smoke.Ours)
	s := serveBy(tt, guest, "")
	for version, protocols := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2.0": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		t.Run(version, func(t *testing.T) {
			client := httpClient(t)
			client.Transport.(*http.Transport).Protocols = new(http.Protocols)
			protocols(client.Transport.(*http.Transport).Protocols)
			reused := false
			ctx := httptrace.WithClientTrace(tt.Ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
			for range 2 {
				req, err := http.NewRequestWithContext(ctx, "GET", s.url, nil)
				require.NoError(t, err)
				resp, err := client.Do(req)
				require.NoError(t, err)
				text, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, "hello\n", string(text))
				require.Equal(t, version, resp.Proto)
			}
			require.True(t, reused)

			from, to := io.Pipe()
			req, err := http.NewRequestWithContext(ctx, "POST", s.url+"/echo", from)
			require.NoError(t, err)
			req.Trailer = http.Header{"X-Sum": nil}
			resp, err := client.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			in := bufio.NewReader(resp.Body)
			for i := range 3 {
				line := fmt.Sprintf("piece %d\n", i)
				_, err := io.WriteString(to, line)
				require.NoError(t, err)
				got, err := in.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, line, got)
			}
			req.Trailer.Set("X-Sum", "all of it")
			require.NoError(t, to.Close())
			_, err = io.ReadAll(in)
			require.NoError(t, err)
			// HTTP/1.1 has only those that the answer's head announces.
			if version == "HTTP/2.0" {
				require.Equal(t, "all of it", resp.Trailer.Get("X-Sum"))
			}
		})
	}
	s.end()
}

// Whatever a guest does, its client gets an answer or an end that is none, whoever
// runs it is told why, and others notice nothing.
func TestHTTPGuestFails(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	s := serve(tt, "http-timeout = '1s'\nhttp-log = 'json'")
	for path, want := range map[string]struct {
		code       int
		broken     bool // the answer's body ends with an error
		log, entry string
	}{
		"/trap":   {500, false, "GET /trap: wasm trap: wasm `unreachable` instruction executed\nerror while executing at wasm backtrace:", "the guest trapped"},
		"/undone": {0, true, "GET /undone: wasm trap: wasm `unreachable` instruction executed", "the guest trapped"},
		"/none":   {500, false, "", "the guest returned without an answer"},
		"/xerror": {500, false, "the guest answers with the error ErrorCode::HttpRequestDenied", "the guest answered with an error"},
		"/2":      {0, true, "GET /2: ", "the guest trapped"},
		"/spin":   {504, false, "GET /spin: the guest let a client wait for longer than http-timeout, 1s", "the guest took too long"},
		"/loop":   {200, true, "GET /loop: the guest let a client wait", "the guest took too long"},
	} {
		t.Run(path, func(t *testing.T) {
			resp, err := httpClient(t).Get(s.url + path)
			if err == nil {
				defer resp.Body.Close()
				_, err = io.ReadAll(resp.Body)
			}
			require.Equal(t, want.broken, err != nil, "%v", err)
			if want.code != 0 { // else it depends on which is quicker
				require.Equal(t, want.code, resp.StatusCode)
			}
			require.NoError(t, s.Stderr.WaitFor(want.log, 10*time.Second))
			require.NoError(t, s.Stdout.WaitFor(`"target":"`+path+`"`, 10*time.Second))
			for line := range strings.Lines(s.Stdout.String()) {
				var entry map[string]any
				require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
				if entry["target"] == path {
					require.Equal(t, want.entry, entry["error"])
				}
			}
		})
	}
	t.Run("others", func(t *testing.T) {
		// More that loop than there are threads.
		var loops sync.WaitGroup
		ctx, cancel := context.WithCancel(tt.Ctx)
		for range 8 {
			loops.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/spin", nil)
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		for range 5 {
			s.requireHello()
		}
		cancel()
		loops.Wait()
	})
	s.end()
}

// The access log and what the guest prints are on the container's standard output.
func TestHTTPLog(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	for form, want := range map[string]string{
		"text": `^printed\n\S+Z 127\.0\.0\.1 "GET /print\?a=b HTTP/1\.1" 200 6 \d+\.\d{3}ms\n\S+ 127\.0\.0\.1 "GET /known HTTP/1\.1" 200 6 \S+ms\n$`,
		"json": `^printed\n\{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","remote":"127\.0\.0\.1","method":"GET","target":"/print\?a=b","version":"HTTP/1\.1","status":200,"bytes":6,"ms":\d+\.\d{3}\}\n.*"target":"/known",.*"status":200,"bytes":6,"ms":\d+\.\d{3}\}\n$`,
		"off":  `^printed\n$`,
	} {
		t.Run(form, func(t *testing.T) {
			s := serve(tt, "http-log = '"+form+"'")
			// The second one's answer says its length, and ends by that.
			for _, path := range []string{"/print?a=b", "/known"} {
				code, text := get(t, httpClient(t), s.url+path)
				require.Equal(t, 200, code)
				require.Equal(t, "hello\n", text)
			}
			result := s.end()
			require.Regexp(t, regexp.MustCompile(want), result.Stdout)
			require.Empty(t, result.Stderr)
		})
	}
}

// An instance answers one request; or some, and how many differs.
func TestHTTPReuse(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	s := serve(tt, "")
	client := httpClient(t)
	for range 5 {
		_, text := get(t, client, s.url+"/count")
		require.Equal(t, "1", text)
	}
	// Their memory, which the next ones get, is as the guest begins.
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			client := httpClient(t)
			for range 50 {
				_, text := get(t, client, s.url+"/memory")
				assert.Equal(t, "h0", text)
			}
		})
	}
	all.Wait()
	s.end()

	s = serve(tt, "http-reuse = 8\nhttp-idle = '1m'")
	// How many instances have answered so often. An answer is here before its instance can
	// answer again, which leaves a request to another one at times.
	reached := map[int]int{}
	for range 200 {
		_, text := get(t, client, s.url+"/count")
		reached[len(text)]++
	}
	require.Zero(t, reached[9], "%v", reached)
	require.GreaterOrEqual(t, reached[4], reached[1]-3, "%v", reached) // some are not at their end
	require.Less(t, reached[8], reached[4], "%v", reached)
	require.Positive(t, reached[8], "%v", reached)
	require.Eventually(t, func() bool {
		_, text := get(t, client, s.url+"/memory")
		return text == "j1"
	}, harness.Slow(10*time.Second), time.Millisecond)
	s.end()

	s = serve(tt, "http-reuse = 1000\nhttp-idle = '10ms'")
	get(t, client, s.url+"/count")
	require.Eventually(t, func() bool {
		time.Sleep(100 * time.Millisecond)
		_, text := get(t, client, s.url+"/count")
		return text == "1"
	}, harness.Slow(10*time.Second), time.Millisecond, "an idle instance ends")
	s.end()
}

// An instance of WASI 0.3 answers some requests at once; one that traps takes those
// with it that it answers, and nobody else.
func TestHTTPConcurrency(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	s := serveBy(tt, http3Guest, "http-max-requests = 64\nhttp-timeout = '2s'\nhttp-log = 'json'")
	client := httpClient(t)
	most := 0
	for range 300 {
		_, text := get(t, client, s.url+"/count")
		most = max(most, len(text))
	}
	require.GreaterOrEqual(t, most, 64)
	require.LessOrEqual(t, most, 128)
	begun := time.Now()
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			code, text := get(t, httpClient(t), s.url+"/wait")
			require.Equal(t, 200, code)
			require.Equal(t, "hello\n", text)
		})
	}
	all.Wait()
	require.Less(t, time.Since(begun), harness.Slow(32*500*time.Millisecond/4), "one after the other")
	code, _ := get(t, client, s.url+"/trap")
	require.Equal(t, 500, code)
	require.NoError(t, s.Stderr.WaitFor("wasm trap: wasm `unreachable` instruction executed\nerror while executing at wasm backtrace:", 10*time.Second))
	code, _ = get(t, client, s.url+"/spin")
	require.Equal(t, 504, code)
	s.requireHello()
	s.end()
}

// SIGTERM lets requests end, and takes no more; but not for ever, and a second one
// waits for nothing.
func TestHTTPStop(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	for name, test := range map[string]struct {
		engine, path string
		again        bool
		code         uint32
		log          string
	}{
		"drained":  {"", "/wait", false, 0, ""},
		"deadline": {"http-drain = '100ms'", "/big", false, 0, "wasmtime: 1 connections were open after http-drain, 100ms\n"},
		"again":    {"http-drain = '1h'", "/big", true, 143, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(tt, test.engine+"\nhttp-log = 'off'")
			address := strings.TrimPrefix(s.url, "http://")
			idle, err := net.Dial("tcp", address)
			require.NoError(t, err)
			defer idle.Close()
			answered := make(chan error, 1)
			begun := make(chan struct{})
			go func() {
				ctx := httptrace.WithClientTrace(tt.Ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { close(begun) }})
				req, _ := http.NewRequestWithContext(ctx, "GET", s.url+test.path, nil)
				resp, err := httpClient(t).Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				answered <- err
			}()
			<-begun
			time.Sleep(100 * time.Millisecond) // it is with the guest
			require.NoError(t, s.Task.Kill(tt.Ctx, syscall.SIGTERM))
			require.Eventually(t, func() bool {
				conn, err := net.Dial("tcp", address)
				if err == nil {
					conn.Close()
				}
				return err != nil
			}, harness.Slow(10*time.Second), 5*time.Millisecond, "it still listens")
			if test.again {
				require.NoError(t, s.Task.Kill(tt.Ctx, syscall.SIGTERM))
			}
			err = <-answered
			require.Equal(t, test.path == "/wait", err == nil, "%v", err)
			result, err := tt.Finish(s.Container)
			require.NoError(t, err)
			require.Equal(t, test.code, result.Code, "%+v", result)
			require.Equal(t, test.log, result.Stderr)
		})
	}
}

// What clients may take of a service is bounded, and each has an end.
func TestHTTPClients(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	s := serve(tt, "http-max-body = '10KiB'\nhttp-max-headers = '8KiB'\nhttp-client-timeout = '1s'\nhttp-log = 'off'")
	address := strings.TrimPrefix(s.url, "http://")
	send := func(t *testing.T, text string) net.Conn {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = io.WriteString(conn, text)
		require.NoError(t, err)
		return conn
	}
	for name, test := range map[string]struct{ sent, want string }{
		"a body of 10 GB":         {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10737418240\r\n\r\n", "HTTP/1.1 413 "},
		"headers of 1 MB":         {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 1<<20), "HTTP/1.1 431 "},
		"no host":                 {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 400 "},
		"no HTTP":                 {"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "HTTP/1.1 400 "},
		"nothing":                 {"", ""},
		"half a preface":          {"PRI * HTTP/2.0\r\n", ""},
		"half a head":             {"GET / HTTP/1.1\r\nHost: a\r\n", ""},
		"a request, then nothing": {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 "},
		"HTTP/2, then nothing":    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", address)
			require.NoError(t, err)
			defer conn.Close()
			go func() { _, _ = io.WriteString(conn, test.sent) }()
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(harness.Slow(30*time.Second))))
			got, err := io.ReadAll(conn)
			if err != nil { // what it has not read, the kernel answers with a reset
				require.ErrorIs(t, err, syscall.ECONNRESET)
			}
			require.Truef(t, strings.HasPrefix(string(got), test.want), "%q", got)
			if test.want == "" {
				require.Empty(t, got)
			}
		})
	}
	t.Run("a head, byte by byte", func(t *testing.T) {
		t.Parallel()
		conn := send(t, "GET / HTTP/1.1\r\n")
		require.Eventually(t, func() bool {
			_, err := io.WriteString(conn, "X")
			return err != nil
		}, harness.Slow(30*time.Second), 50*time.Millisecond)
	})
	t.Run("a body without a length", func(t *testing.T) {
		t.Parallel()
		from, to := io.Pipe()
		go func() {
			for range 1000 {
				if _, err := to.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
			to.Close()
		}()
		resp, err := httpClient(t).Post(s.url+"/echo", "", from)
		if err == nil {
			defer resp.Body.Close()
			n, _ := io.Copy(io.Discard, resp.Body)
			require.LessOrEqual(t, n, int64(10<<10))
		}
		from.CloseWithError(io.EOF)
	})
	t.Run("a client that does not read", func(t *testing.T) {
		t.Parallel()
		conn := send(t, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
		time.Sleep(3 * time.Second)
		// What is in the buffers, and then the end.
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(harness.Slow(30*time.Second))))
		_, err := io.Copy(io.Discard, conn)
		if err != nil {
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}
	})
	t.Run("half closed", func(t *testing.T) {
		t.Parallel()
		conn := send(t, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(harness.Slow(30*time.Second))))
		_, err := io.ReadAll(conn)
		require.NoError(t, err)
	})
}

// More clients than there may be wait, and those that do nothing give way.
func TestHTTPCrowd(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	s := serve(tt, "http-max-connections = 4\nhttp-max-requests = 2\nhttp-log = 'off'")
	address := strings.TrimPrefix(s.url, "http://")
	for i := range 8 {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer conn.Close()
		// Nothing, or the begin of a request.
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n"[:i%2*16])
		require.NoError(t, err)
	}
	var all sync.WaitGroup
	codes := make(chan int, 20)
	for range 20 {
		all.Go(func() {
			resp, err := httpClient(t).Get(s.url + "/wait")
			if err != nil {
				codes <- 0
				return
			}
			resp.Body.Close()
			codes <- resp.StatusCode
		})
	}
	all.Wait()
	for range 20 {
		require.Equal(t, 200, <-codes)
	}
	s.end()
}

// More clients than there are descriptors cost no more than those, and one that asks for
// something gets it.
func TestHTTPManyClients(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	const files, clients = 1024, 10_000
	port := freePort(t)
	c := tt.Run(harness.Config{
		Image: smoke.Image(tt), Args: []string{httpGuest}, Env: []string{"PORT=" + port},
		Opts: []oci.SpecOpts{hostNetwork, harness.WithSpec(func(s *oci.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: files, Hard: files}}
		})},
		RuntimeOptions: body("[engine]\nhttp-max-connections = 1000000\nhttp-client-timeout = '1h'\nhttp-log = 'off'"),
	})
	s := &service{c, tt, "http://127.0.0.1:" + port}
	awaitPort(tt, c, "127.0.0.1:"+port)
	s.requireHello()
	used := func() (kib int64, open int) {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Task.Pid()))
		require.NoError(t, err)
		return statusOf(t, c.Task.Pid(), "VmRSS"), len(entries)
	}
	memory, open := used()

	var all sync.WaitGroup
	conns := make(chan net.Conn, clients)
	for range clients {
		all.Go(func() {
			// The kernel makes wait those for whom it has no place.
			if conn, err := net.DialTimeout("tcp", "127.0.0.1:"+port, harness.Slow(2*time.Second)); err == nil {
				conns <- conn
			}
		})
	}
	all.Wait()
	close(conns)
	require.Greater(t, len(conns), files)
	client := httpClient(t)
	code, text := get(t, client, s.url)
	require.Equal(t, 200, code)
	require.Equal(t, "hello\n", text)
	most, opened := used()
	require.Less(t, opened, files)
	require.Less(t, most, memory+64<<10)

	for conn := range conns {
		conn.Close()
	}
	client.CloseIdleConnections()
	require.Eventually(t, func() bool {
		_, left := used()
		return left <= open
	}, harness.Slow(30*time.Second), 50*time.Millisecond)
	s.requireHello()
	s.end()
}

// statusOf is a field of a process's status, in KiB.
func statusOf(t *testing.T, pid uint32, field string) (kib int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, value, found := strings.Cut(string(text), field+":")
	require.True(t, found, field)
	_, err = fmt.Sscan(value, &kib)
	require.NoError(t, err)
	return kib
}

// A body of any size goes through piece by piece, and is never held as a whole.
func TestHTTPBody(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	const size = 128 << 20
	for _, guest := range []string{httpGuest, http3Guest} {
		s := serveBy(tt, guest, "http-max-body = '10GiB'\nhttp-log = 'off'")
		s.requireHello()
		before := statusOf(t, s.Task.Pid(), "VmHWM")
		resp, err := httpClient(t).Post(s.url+"/echo", "", io.LimitReader(zeros{}, size))
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, resp.Body)
		require.NoError(t, err, "after %d", n)
		resp.Body.Close()
		require.EqualValues(t, size, n)
		require.Less(t, statusOf(t, s.Task.Pid(), "VmHWM"), before+size>>10/16, guest)
		s.end()
	}
}

// Where it listens: the option, the reference's variable, PORT, in this order.
func TestHTTPAddress(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	const variable = "WASMTIME_HTTP_PROXY_SOCKET_ADDR="
	for name, test := range map[string]struct {
		engine string // %s is the port
		env    []string
		host   string
	}{
		"option":   {"http-address = '127.0.0.2:%s'", []string{variable + "127.0.0.1:1", "PORT=2"}, "127.0.0.2"},
		"port":     {"http-address = ':%s'", []string{"PORT=1"}, "127.0.0.1"},
		"variable": {"", []string{variable + "127.0.0.3:%s", "PORT=1", "WASMTIME_HTTP_PROXY_BACKLOG=7"}, "127.0.0.3"},
		"PORT":     {"", []string{"PORT=1", "PORT=%s"}, "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			port := freePort(t)
			var env []string
			for _, e := range test.env {
				env = append(env, strings.ReplaceAll(e, "%s", port))
			}
			c := tt.Run(harness.Config{
				Image: smoke.Image(tt), Args: []string{httpGuest}, Opts: []oci.SpecOpts{hostNetwork, oci.WithEnv(env)},
				RuntimeOptions: body("[engine]\n" + strings.ReplaceAll(test.engine, "%s", port)),
			})
			awaitPort(tt, c, net.JoinHostPort(test.host, port))
			(&service{c, tt, "http://" + net.JoinHostPort(test.host, port)}).requireHello()
		})
	}
}

// What cannot be served ends with a sentence that says what to change.
func TestBadInputHTTP(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	taken, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	require.NoError(t, err)
	for name, test := range map[string]struct {
		engine string
		env    string
		code   uint32
		reason string
	}{
		"port in use":         {"", "PORT=" + port, 125, "cannot listen on 0.0.0.0:" + port + ": Address already in use; the option http-address or the variable PORT names another port"},
		"no such address":     {"http-address = '192.0.2.1:80'", "", 125, "cannot listen on 192.0.2.1:80: Cannot assign requested address; accepted: an address that the container has"},
		"option no address":   {"http-address = 'here'", "", 126, `http-address: found "here", accepted: ADDRESS:PORT, [ADDRESS]:PORT of version 6, :PORT or PORT`},
		"variable no address": {"", "WASMTIME_HTTP_PROXY_SOCKET_ADDR=localhost:80", 125, `WASMTIME_HTTP_PROXY_SOCKET_ADDR: found "localhost:80", accepted: ADDRESS:PORT`},
		"variable no number":  {"", "WASMTIME_HTTP_PROXY_BACKLOG=many", 125, `WASMTIME_HTTP_PROXY_BACKLOG: found "many", accepted: a number, 1 or more`},
		"PORT no port":        {"", "PORT=70000", 125, `the variable PORT: found "70000", accepted: a port, 1 to 65535`},
		"no requests":         {"http-max-requests = 0", "", 126, "the option http-max-requests: found 0, accepted: 1 or more"},
		"headers too small":   {"http-max-headers = 100", "", 126, "the option http-max-headers: found 100, accepted: 8192 or more"},
		"no time":             {"http-timeout = '0s'", "", 126, "the option http-timeout: found 0, accepted: 1 or more"},
	} {
		t.Run(name, func(t *testing.T) {
			var env []string
			if test.env != "" {
				env = []string{test.env}
			}
			result := tt.Once(harness.Config{
				Image: smoke.Image(tt), Args: []string{httpGuest}, Env: env, Opts: []oci.SpecOpts{hostNetwork},
				RuntimeOptions: body("[engine]\n" + test.engine),
			})
			require.Equal(t, test.code, result.Code, "%+v", result)
			require.Contains(t, result.Stderr, test.reason)
		})
	}
}

// certificates are those of an authority and of a server, example.com, that it vouches for.
func certificates(t *testing.T) (authority []byte, server tls.Certificate) {
	sign := func(c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		require.NoError(t, err)
		return der
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	authority = sign(ca, ca, caKey, caKey)
	leaf := sign(&x509.Certificate{Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"example.com"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, ca, key, caKey)
	return authority, tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}
}

// servers are those that guests send requests to. Names and certificates that go with
// them are in files.
type servers struct {
	plain, secure *httptest.Server
	connections   atomic.Int64 // that plain had
	dir           string
}

func newServers(t *testing.T) *servers {
	s := &servers{dir: t.TempDir()}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "http://10.0.0.1/", http.StatusFound)
		case "/never":
			<-r.Context().Done()
		case "/large":
			_, _ = w.Write(bytes.Repeat([]byte("y"), 3<<20))
		case "/size":
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "got %d %v", n, err)
		case "/cut":
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("begun"))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprintf(w, "%s %s %s", r.Proto, r.Host, r.URL)
		}
	})
	s.plain, s.secure = httptest.NewUnstartedServer(handler), httptest.NewUnstartedServer(handler)
	s.plain.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.secure.EnableHTTP2 = true
	authority, certificate := certificates(t)
	s.secure.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	s.secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.plain.Start()
	t.Cleanup(s.plain.Close)
	s.secure.StartTLS()
	t.Cleanup(s.secure.Close)
	require.NoError(t, os.WriteFile(s.dir+"/ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority}), 0o644))
	require.NoError(t, os.WriteFile(s.dir+"/hosts", []byte("127.0.0.1 good.test other.test example.com\n"), 0o644))
	return s
}

// portOf is ":" and a server's port.
func portOf(s *httptest.Server) string { return s.Listener.Addr().String()[len("127.0.0.1"):] }

// mount has one of the files in a container.
func (s *servers) mount(from, to string) specs.Mount {
	return specs.Mount{Type: "bind", Source: s.dir + from, Destination: to, Options: []string{"rbind", "ro"}}
}

// A guest sends requests where the operator lets it: by addresses, ports and names, as
// for sockets, over a pool of connections, and by TLS with the certificates that its
// container trusts.
func TestHTTPOutgoing(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	servers := newServers(t)
	mount, port, plain, secure := servers.mount, portOf, servers.plain, servers.secure
	at := func(path string) string { return "/fh/127.0.0.1" + port(plain) + path }
	const denied, prohibited, refused, untrusted = "15", "04", "06", "13"
	type sent struct {
		path string
		code int
		text string
	}
	for name, test := range map[string]struct {
		engine string
		opts   []oci.SpecOpts
		sent   []sent
	}{
		"none": {"", nil, []sent{{at("/"), 502, denied}}},
		"outbound": {"network = 'outbound'", nil, []sent{
			{at("/a?b=c"), 200, "HTTP/1.1 127.0.0.1" + port(plain) + " /a?b=c"},
			{at("/redirect"), 302, ""},
			{"/fh/good.test" + port(plain) + "/", 200, "HTTP/1.1 good.test" + port(plain) + " /"},
			{"/fh/127.0.0.1:" + freePort(t) + "/", 502, refused},
			{"/fs/example.com" + port(secure) + "/", 502, untrusted},
		}},
		"addresses": {"network = 'outbound'\nconnect-to = '10.0.0.0/8'", nil, []sent{{at("/"), 502, prohibited}}},
		"ports":     {"network = 'outbound'\nconnect-ports = '443'", nil, []sent{{at("/"), 502, prohibited}}},
		"names": {"network = 'outbound'\nconnect-names = 'good.test'", nil, []sent{
			{"/fh/good.test" + port(plain) + "/", 200, "HTTP/1.1 good.test" + port(plain) + " /"},
			{"/fh/other.test" + port(plain) + "/", 502, denied},
		}},
		"own certificates": {
			"network = 'all'",
			[]oci.SpecOpts{oci.WithMounts([]specs.Mount{mount("/ca.crt", "/own.crt")}), oci.WithEnv([]string{"SSL_CERT_FILE=/own.crt"})},
			[]sent{{"/fs/example.com" + port(secure) + "/", 200, "HTTP/2.0 example.com" + port(secure) + " /"}},
		},
		"the container's certificates": {
			"network = 'all'",
			[]oci.SpecOpts{oci.WithMounts([]specs.Mount{mount("/ca.crt", "/etc/ssl/certs/ca-certificates.crt")})},
			[]sent{{"/fs/example.com" + port(secure) + "/", 200, "HTTP/2.0 example.com" + port(secure) + " /"}},
		},
		"no certificates": {
			"network = 'all'",
			[]oci.SpecOpts{oci.WithEnv([]string{"SSL_CERT_FILE=/nope.crt"})},
			[]sent{{"/fs/example.com" + port(secure) + "/", 502, "37"}},
		},
		"never": {"network = 'all'\nhttp-timeout = '1s'", nil, []sent{{at("/never"), 504, "504 Gateway Timeout\n"}}},
	} {
		t.Run(name, func(t *testing.T) {
			listen := freePort(t)
			c := tt.Run(harness.Config{
				Image: smoke.Image(tt), Args: []string{httpGuest}, Env: []string{"PORT=" + listen},
				Opts:           append([]oci.SpecOpts{hostNetwork, oci.WithMounts([]specs.Mount{mount("/hosts", "/etc/hosts")})}, test.opts...),
				RuntimeOptions: body("[engine]\n" + test.engine),
			})
			awaitPort(tt, c, "127.0.0.1:"+listen)
			for _, s := range test.sent {
				code, text := get(t, httpClient(t), "http://127.0.0.1:"+listen+s.path)
				require.Equal(t, s.code, code, "%s: %s%s", s.path, text, c.Stderr)
				require.Contains(t, text, s.text, s.path)
			}
		})
	}
	t.Run("pool", func(t *testing.T) {
		s := serve(tt, "network = 'outbound'")
		servers.connections.Store(0)
		for range 5 {
			code, text := get(t, httpClient(t), s.url+at("/"))
			require.Equal(t, 200, code, text)
		}
		require.EqualValues(t, 1, servers.connections.Load())
	})
}

// Commands send requests as services do: of WASI 0.2, whose calls wait, and of 0.3.
func TestHTTPFromCommands(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	files := smoke.Files(tt)
	for _, name := range []string{"p2", "p3"} {
		files[name+".wasm"] = harness.File{Data: rustGuest(t, name, name)}
	}
	image := tt.Image("http", files, ocispec.ImageConfig{})
	servers := newServers(t)
	plain, secure := "127.0.0.1"+portOf(servers.plain), "example.com"+portOf(servers.secure)
	trusted := []oci.SpecOpts{
		oci.WithMounts([]specs.Mount{servers.mount("/ca.crt", "/own.crt")}), oci.WithEnv([]string{"SSL_CERT_FILE=/own.crt"}),
	}
	line := func(status int, text string) string { return fmt.Sprintf("%d %d %s\n", status, len(text), text) }
	for name, test := range map[string]struct {
		engine string
		args   []string
		opts   []oci.SpecOpts
		want   string // how standard output begins
	}{
		"none":           {"", []string{"GET", "http", plain, "/"}, nil, "ErrorCode::HttpRequestDenied\n"},
		"outbound":       {"network = 'outbound'", []string{"GET", "http", plain, "/a?b=c"}, nil, line(200, "HTTP/1.1 "+plain+" /a?b=c")},
		"a name":         {"network = 'outbound'", []string{"GET", "http", "good.test" + portOf(servers.plain), "/"}, nil, line(200, "HTTP/1.1 good.test"+portOf(servers.plain)+" /")},
		"a redirect":     {"network = 'outbound'", []string{"GET", "http", plain, "/redirect"}, nil, "302 "},
		"a body":         {"network = 'outbound'", []string{"POST", "http", plain, "/size", "1000000"}, nil, line(200, "got 1000000 <nil>")},
		"a large answer": {"network = 'outbound'", []string{"GET", "http", plain, "/large"}, nil, "200 3145728 yyy"},
		"half an answer": {"network = 'outbound'", []string{"GET", "http", plain, "/cut"}, nil, "200 5 begun Some(ErrorCode::HttpResponseIncomplete)\n"},
		"no answer":      {"network = 'outbound'", []string{"GET", "http", plain, "/never", "0", "300"}, nil, "ErrorCode::ConnectionReadTimeout\n"},
		"nobody there":   {"network = 'outbound'", []string{"GET", "http", "127.0.0.1:" + freePort(t), "/"}, nil, "ErrorCode::ConnectionRefused\n"},
		"an address":     {"network = 'outbound'\nconnect-to = '10.0.0.0/8'", []string{"GET", "http", plain, "/"}, nil, "ErrorCode::DestinationIpProhibited\n"},
		"a port":         {"network = 'outbound'\nconnect-ports = '443'", []string{"GET", "http", plain, "/"}, nil, "ErrorCode::DestinationIpProhibited\n"},
		"another name":   {"network = 'outbound'\nconnect-names = 'good.test'", []string{"GET", "http", "other.test" + portOf(servers.plain), "/"}, nil, "ErrorCode::HttpRequestDenied\n"},
		"no such name":   {"network = 'outbound'", []string{"GET", "http", "none.invalid", "/"}, nil, "ErrorCode::Dns"},
		"certificates":   {"network = 'outbound'", []string{"POST", "https", secure, "/size", "100000"}, trusted, line(200, "got 100000 <nil>")},
		"HTTP/2":         {"network = 'outbound'", []string{"GET", "https", secure, "/"}, trusted, line(200, "HTTP/2.0 "+secure+" /")},
		"not trusted":    {"network = 'outbound'", []string{"GET", "https", secure, "/"}, nil, "ErrorCode::TlsCertificateError\n"},
	} {
		for _, guest := range []string{"p2", "p3"} {
			t.Run(name+"/"+guest, func(t *testing.T) {
				result := tt.Once(harness.Config{
					Image: image, Args: append([]string{"/" + guest + ".wasm"}, test.args...), RuntimeOptions: body("[engine]\n" + test.engine),
					Opts: append([]oci.SpecOpts{hostNetwork, oci.WithMounts([]specs.Mount{servers.mount("/hosts", "/etc/hosts")})}, test.opts...),
				})
				require.Zero(t, result.Code, "%+v", result)
				require.True(t, strings.HasPrefix(result.Stdout, test.want), "found %q, %s, expected %q", result.Stdout, result.Stderr, test.want)
			})
		}
	}
}
