// SPDX-License-Identifier: Apache-2.0

package compiler

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowed are the system calls of a process that computes: memory, threads,
// time, and reading and writing what it was given. Those that name files are for
// libcontainer's way to the exec and for a runtime's start; the root is empty,
// and Landlock closes it before the engine is called.
var allowed = []string{
	"access", "arch_prctl", "brk", "capget", "capset", "chdir", "clock_getres", "clock_gettime", "clock_nanosleep", "close", "close_range", "dup", "dup2", "dup3",
	"epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "execve", "exit", "exit_group", "faccessat", "faccessat2",
	"fcntl", "fstat", "fstatfs", "ftruncate", "futex", "futex_waitv", "getcwd", "getdents64", "getegid", "geteuid", "getgid", "getpid", "getppid",
	"getrandom", "getresgid", "getresuid", "getrlimit", "getrusage", "gettid", "gettimeofday", "getuid", "landlock_add_rule", "landlock_create_ruleset",
	"landlock_restrict_self", "lseek", "madvise", "membarrier", "mincore", "mmap", "mprotect", "mremap", "munmap", "nanosleep", "newfstatat",
	"open", "openat", "openat2", "pipe2", "poll", "ppoll", "prctl", "pread64", "preadv", "preadv2", "prlimit64", "pwrite64", "pwritev", "read", "readlink",
	"readlinkat", "readv", "recvfrom", "recvmsg", "restart_syscall", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend",
	"rt_sigtimedwait", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_setaffinity", "sched_yield", "seccomp", "sendmsg", "sendto",
	"set_robust_list", "set_tid_address", "sigaltstack", "stat", "statx", "sysinfo", "tgkill", "timer_create", "timer_delete", "timer_settime",
	"times", "umask", "uname", "write", "writev",
}

// namespaceFlags are those of clone that make namespaces.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWCGROUP

// seccompProfile is for the machine's own architecture: calls of another one
// kill the process.
func seccompProfile() *specs.LinuxSeccomp {
	enosys := uint(unix.ENOSYS)
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Syscalls: []specs.LinuxSyscall{
			{Names: allowed, Action: specs.ActAllow},
			// The first's flags are in memory, out of a filter's sight. Whoever would call these
			// does without what the kernel does not have: C libraries, and wasmtime for memories.
			{Names: []string{"clone3", "memfd_create"}, Action: specs.ActErrno, ErrnoRet: &enosys},
			{Names: []string{"clone"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{
				{Index: 0, Value: namespaceFlags, ValueTwo: 0, Op: specs.OpMaskedEqual},
			}},
		},
	}
}
