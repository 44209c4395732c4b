// A driver and an NCCL without a GPU, for tests: device memory is host memory, ranks are threads of one process.
// -DSTUCK: a sum never ends. -DBROKEN: it fails while it is under way. -DUNMET: the ranks never meet in it.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANKS = 8 };
typedef struct { char bytes[128]; } UniqueId;
struct comm;
struct job { int world, begun; int64_t *buffers[MAX_RANKS]; struct comm *comms[MAX_RANKS]; };
struct comm { struct job *job; int rank; int waiting; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread struct comm *mine;

int cuInit(unsigned flags) { return flags; }
int cuDeviceGetCount(int *n) { *n = MAX_RANKS; return 0; }
int cuDeviceGetName(char *name, int n, int device) { return snprintf(name, n, "Device %d", device) < 0; }
int cuDeviceGet(int *device, int i) { *device = i; return i < MAX_RANKS ? 0 : 101; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(uintptr_t)(device + 1); return 0; }
int cuCtxSetCurrent(void *context) { return context ? 0 : 201; }
int cuStreamCreate(void **stream, unsigned flags) { *stream = &lock; return flags == 1 ? 0 : 1; }
int cuMemAlloc_v2(uint64_t *p, size_t n) { *p = (uintptr_t)malloc(n); return 0; }
int cuMemFree_v2(uint64_t p) { free((void *)(uintptr_t)p); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *s) { memcpy((void *)(uintptr_t)to, from, n); return s ? 0 : 1; }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *s) { memcpy(to, (void *)(uintptr_t)from, n); return s ? 0 : 1; }

int cuStreamQuery(void *stream) {
  pthread_mutex_lock(&lock);
  int busy = mine && mine->waiting;
  pthread_mutex_unlock(&lock);
  return busy ? 600 : stream ? 0 : 1;
}

int ncclGetUniqueId(UniqueId *id) {
  struct job *job = calloc(1, sizeof *job);
  memset(id, 0, sizeof *id);
  memcpy(id->bytes, &job, sizeof job);
  return 0;
}

int ncclCommInitRankConfig(void **comm, int world, UniqueId id, int rank, const unsigned *config) {
  if (config[2] != 0xcafebeef || config[4] != 0) return 4;
  struct comm *c = calloc(1, sizeof *c);
  memcpy(&c->job, id.bytes, sizeof c->job);
  c->job->world = world;
  c->rank = rank;
  *comm = mine = c;
  return 7;
}

int ncclCommGetAsyncError(struct comm *c, int *state) {
#ifdef BROKEN
  *state = c->waiting ? 6 : 0;
#elif defined UNMET
  *state = c ? 7 : 0;
#else
  *state = c ? 0 : 4;
#endif
  return 0;
}

int ncclAllReduce(uint64_t from, uint64_t to, size_t n, int type, int op, struct comm *c, void *stream) {
  if (from != to || type != 4 || op != 0 || !stream) return 4;
  pthread_mutex_lock(&lock);
  struct job *job = c->job;
  job->buffers[c->rank] = (int64_t *)(uintptr_t)to;
  c->waiting = 1;
#if !defined STUCK && !defined BROKEN
  job->comms[c->rank] = c;
  if (++job->begun == job->world) {
    job->begun = 0;
    for (size_t i = 0; i < n; i++) {
      uint64_t sum = 0;
      for (int r = 0; r < job->world; r++) sum += (uint64_t)job->buffers[r][i];
      for (int r = 0; r < job->world; r++) job->buffers[r][i] = (int64_t)sum;
    }
    for (int r = 0; r < job->world; r++) job->comms[r]->waiting = 0;
  }
#endif
  pthread_mutex_unlock(&lock);
  return 7;
}

const char *ncclGetErrorString(int code) { return code == 6 ? "remote process exited or there was a network error" : "invalid argument"; }
