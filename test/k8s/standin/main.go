// SPDX-License-Identifier: Apache-2.0

// Standin is, by the name that it is called by, one of the programs that tests of
// Kubernetes look for in images, and that a static busybox does not have.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "pause":
		pause()
	case "pgrep":
		pgrep(os.Args[1])
	case "ipcs": // -m: the ids of shared memory
		text, _ := os.ReadFile("/proc/sysvipc/shm")
		for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
			fmt.Println(strings.Fields(line)[1])
		}
	case "nnp": // setuid root in its image: does that count?
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case "nginx": // under the name and the title by which critest looks for it
		exit(unix.Exec(os.Args[0], []string{"nginx: master process nginx", os.Args[1]}, os.Environ()))
	case "grpc": // a server whose health is asked for
		l, err := net.Listen("tcp", ":"+os.Args[1])
		if err != nil {
			exit(err)
		}
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, health.NewServer())
		exit(server.Serve(l))
	default:
		serve(os.Args[1])
	}
}

func exit(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// pause is the first process of a pod: reaps, and ends when it is told to.
func pause() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGCHLD)
	for s := range signals {
		if s != unix.SIGCHLD {
			return
		}
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && err != unix.EINTR {
				break
			}
		}
	}
}

func pgrep(name string) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	status := 1
	for _, file := range files {
		if comm, _ := os.ReadFile(file); strings.Contains(string(comm), name) {
			fmt.Println(strings.Split(file, "/")[2])
			status = 0
		}
	}
	os.Exit(status)
}

func serve(port string) {
	if err := os.WriteFile("/var/run/nginx.pid", fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
		exit(err)
	}
	fmt.Println("httpd, or nginx, on port", port)
	exit(http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "Welcome")
	})))
}
