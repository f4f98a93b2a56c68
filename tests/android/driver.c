// Loads llama.cpp as the app does and prints what it computes, for tests/android/test_bionic.py:
//
//   driver TRUNK.gguf MTP.gguf PROMPT PROMPT [BACKEND.so…]
//
// Prompts are ids between commas. Without backends the CPU's is linked in.
#include <dlfcn.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"
#include "llama.h"

enum { CONTEXT = 256, ANSWER = 24 };

// On ARM code for Android keeps the guard of its stacks 40 bytes behind the thread pointer. There glibc puts this program's
// thread-local variables, of which none may change.
_Thread_local char guard[64] __attribute__((used, aligned(64)));

struct prompt {
    llama_token ids[CONTEXT];
    int count;
};

static void need(bool holds, const char *format, ...) {
    if (holds) return;
    va_list values;
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    exit(1);
}

static struct prompt read_prompt(const char *text) {
    struct prompt made = {.count = 0};
    for (char *next = (char *)text; *next != '\0' && made.count < CONTEXT - ANSWER;) {
        made.ids[made.count++] = (llama_token)strtol(next, &next, 10);
        if (*next == ',') next++;
    }
    return made;
}

static void print_ids(const char *name, const llama_token *ids, int count) {
    printf("%s", name);
    for (int index = 0; index < count; index++) printf("%c%d", index == 0 ? ' ' : ',', ids[index]);
    puts("");
}

static void print_devices(void) {
    printf("devices");
    for (size_t index = 0; index < ggml_backend_dev_count(); index++) {
        printf(" %s", ggml_backend_dev_name(ggml_backend_dev_get(index)));
    }
    puts("");
}

// As the app does: each by its name alone, since no folder of an APK can be listed. Of CPU code what fits best is loaded,
// of the rest what this device has drivers for.
static void load_backends(int count, char **names) {
    const char *best = NULL;
    int best_score = 0;
    for (int index = 0; index < count; index++) {
        if (strncmp(names[index], "libggml-cpu", 11) != 0) continue;
        void *library = dlopen(names[index], RTLD_NOW | RTLD_DEEPBIND);
        need(library != NULL, "%s", dlerror());
        int (*rate)(void) = (int (*)(void))dlsym(library, "ggml_backend_score");
        int score = rate == NULL ? 1 : rate();
        if (score > best_score) best = names[index], best_score = score;
    }
    printf("best %s\n", best == NULL ? "none" : best);
    need(count == 0 || (best != NULL && ggml_backend_load(best) != NULL), "no CPU code is loaded");
    for (int index = 0; index < count; index++) {
        if (strncmp(names[index], "libggml-cpu", 11) == 0) continue;
        printf("%s is %s\n", names[index], ggml_backend_load(names[index]) == NULL ? "refused" : "loaded");
    }
    print_devices();
}

static struct llama_context *context(struct llama_model *model, enum llama_context_type type) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT;
    params.n_threads = params.n_threads_batch = 1;
    params.ctx_type = type;
    params.pooling_type = LLAMA_POOLING_TYPE_NONE;
    struct llama_context *made = llama_init_from_model(model, params);
    need(made != NULL, "no context");
    return made;
}

// The likeliest token after `ids`, which stand at `position`; `hidden` is for the MTP layer.
static llama_token next(struct llama_context *context, llama_token *ids, int count, int position, float *hidden) {
    llama_pos positions[CONTEXT];
    int8_t wanted[CONTEXT] = {0};
    for (int index = 0; index < count; index++) positions[index] = position + index;
    wanted[count - 1] = 1;
    struct llama_batch batch = {.n_tokens = count, .token = ids, .embd = hidden, .pos = positions, .logits = wanted};
    need(llama_decode(context, batch) == 0, "llama_decode failed at %d", position);
    const float *logits = llama_get_logits_ith(context, -1);
    const struct llama_vocab *vocab = llama_model_get_vocab(llama_get_model(context));
    llama_token best = 0;
    for (int id = 1; id < llama_vocab_n_tokens(vocab); id++) {
        if (logits[id] > logits[best]) best = id;
    }
    return best;
}

// Appends to `prompt` what is answered greedily, `count` tokens of it.
static void answer(struct llama_context *context, struct prompt *prompt, int count) {
    for (int index = 0; index < count; index++, prompt->count++) {
        int position = prompt->count - 1;
        prompt->ids[prompt->count] = next(context, &prompt->ids[position], 1, position, NULL);
    }
}

static void save_and_restore(struct llama_model *model, struct llama_context *from, const struct prompt *kept) {
    size_t size = llama_state_seq_get_size(from, 0);
    uint8_t *data = malloc(size);
    need(data != NULL && llama_state_seq_get_data(from, data, size, 0) == size, "no state");
    struct llama_context *to = context(model, LLAMA_CONTEXT_TYPE_DEFAULT);
    need(llama_state_seq_set_data(to, data, size, 0) == size, "the state is refused");
    need(llama_state_seq_set_data(to, data, size / 2, 0) == 0, "half a state is taken"); // throws and catches inside
    need(llama_state_seq_set_data(to, data, size, 0) == size, "the state is refused");
    struct prompt again = *kept;
    answer(to, &again, ANSWER / 2);
    print_ids("restored", again.ids + kept->count, ANSWER / 2);
    llama_free(to);
    free(data);
}

// As LlamaOpener.kt does: the trunk's hidden states are of its own model, and the MTP layer is in one of both files. What that
// model's trunk computes is told, too.
static void draft(struct llama_model *alone, struct llama_model *both, const struct prompt *prompt) {
    struct llama_context *trunk = context(alone, LLAMA_CONTEXT_TYPE_DEFAULT);
    struct llama_context *beside = context(both, LLAMA_CONTEXT_TYPE_DEFAULT);
    struct llama_context *layer = context(both, LLAMA_CONTEXT_TYPE_MTP);
    struct prompt shifted = *prompt;
    llama_set_embeddings(trunk, true);
    llama_token first = next(trunk, shifted.ids, shifted.count, 0, NULL);
    next(beside, shifted.ids, shifted.count, 0, NULL);
    float difference = 0, largest = 0;
    for (int id = 0; id < llama_vocab_n_tokens(llama_model_get_vocab(alone)); id++) {
        float value = llama_get_logits_ith(trunk, -1)[id], other = llama_get_logits_ith(beside, -1)[id];
        difference = fmaxf(difference, fabsf(value - other));
        largest = fmaxf(largest, fabsf(value));
    }
    memmove(shifted.ids, shifted.ids + 1, (size_t)(shifted.count - 1) * sizeof shifted.ids[0]);
    shifted.ids[shifted.count - 1] = first;
    llama_token drafted[] = {first, next(layer, shifted.ids, shifted.count, 0, llama_get_embeddings(trunk))};
    print_ids("drafted", drafted, 2);
    printf("trunk beside the MTP layer: %s\n", difference < 0.01f * largest ? "the same" : "another");
    llama_free(layer);
    llama_free(beside);
    llama_free(trunk);
}

// Of all tokens a grammar leaves those that it may begin with.
static void constrain(struct llama_model *model) {
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    int count = llama_vocab_n_tokens(vocab), left = 0;
    need(llama_sampler_init_grammar(vocab, "root ::= (", "root") == NULL, "a broken grammar is taken");
    struct llama_sampler *grammar = llama_sampler_init_grammar(vocab, "root ::= [0-9]+ \".\"", "root");
    llama_token_data *all = malloc((size_t)count * sizeof *all);
    need(grammar != NULL && all != NULL, "no grammar");
    for (int id = 0; id < count; id++) all[id] = (llama_token_data){.id = id};
    llama_token_data_array candidates = {.data = all, .size = (size_t)count, .selected = -1};
    llama_sampler_apply(grammar, &candidates);
    for (size_t index = 0; index < candidates.size; index++) left += all[index].logit == 0;
    printf("grammar %d\n", left);
    free(all);
    llama_sampler_free(grammar);
}

static struct llama_model *load(const char **paths, size_t count) {
    struct llama_model_params params = llama_model_default_params();
    params.load_mtp = count > 1;
    return llama_model_load_from_splits(paths, count, params);
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int count, char **arguments) {
    need(count >= 5, "driver TRUNK.gguf MTP.gguf PROMPT PROMPT [BACKEND.so…]");
    setbuf(stdout, NULL);
    llama_log_set(quiet, NULL);
    load_backends(count - 5, arguments + 5);
    llama_backend_init();
    const char *paths[] = {arguments[2], arguments[1]};
    need(load(&paths[0], 1) == NULL, "an MTP layer without its trunk is loaded"); // throws and catches inside
    struct llama_model *model = load(&paths[1], 1);
    need(model != NULL, "%s is not loaded", paths[1]);

    struct llama_context *contexts[2];
    struct prompt asked[2], said[2];
    for (int each = 0; each < 2; each++) {
        contexts[each] = context(model, LLAMA_CONTEXT_TYPE_DEFAULT);
        asked[each] = said[each] = read_prompt(arguments[3 + each]);
        said[each].ids[said[each].count++] = next(contexts[each], asked[each].ids, asked[each].count, 0, NULL);
    }
    for (int turn = 0; turn < ANSWER; turn++) { // in turns
        for (int each = 0; each < 2; each++) answer(contexts[each], &said[each], 1);
    }
    for (int each = 0; each < 2; each++) print_ids("answer", said[each].ids + asked[each].count, ANSWER);

    struct prompt half = said[0];
    half.count = asked[0].count + ANSWER / 2;
    need(llama_memory_seq_rm(llama_get_memory(contexts[0]), 0, half.count - 1, -1), "nothing is rolled back");
    save_and_restore(model, contexts[0], &half);
    answer(contexts[0], &half, ANSWER / 2);
    print_ids("rolled back", half.ids + half.count - ANSWER / 2, ANSWER / 2);
    for (int each = 0; each < 2; each++) llama_free(contexts[each]);
    constrain(model);
    struct llama_model *both = load(paths, 2);
    need(both != NULL, "%s and %s are not loaded", paths[0], paths[1]);
    draft(model, both, &asked[0]);
    llama_model_free(both);
    llama_model_free(model);
    llama_backend_free();
    puts("done");
}
