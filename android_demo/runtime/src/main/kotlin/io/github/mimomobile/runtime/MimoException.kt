package io.github.mimomobile.runtime

/** Every error that this library raises on purpose. A bad argument is an [IllegalArgumentException]. */
public sealed class MimoException(message: String, cause: Throwable? = null) : Exception(message, cause) {
    /** A file is missing, damaged, no MiMo model, or not the one that the manifest names. */
    public class ModelLoad(message: String, cause: Throwable? = null) : MimoException(message, cause)

    /** A model does not fit in the available memory; nothing was loaded. */
    public class MemoryFull(message: String, cause: Throwable? = null) : MimoException(message, cause)

    /** An execution provider is not in this build or on this device, or does not take the whole model. */
    public class ProviderUnavailable(message: String, cause: Throwable? = null) : MimoException(message, cause)

    /** The prompt does not fit the context. */
    public class ContextFull(message: String) : MimoException(message)

    /** A saved conversation is damaged, none, or of another model or KV cache; or another file is where one is to be saved. */
    public class ConversationFile(message: String, cause: Throwable? = null) : MimoException(message, cause)

    /** The engine cannot do this now: nothing is loaded, it is busy, or it was closed. */
    public class WrongState(message: String) : MimoException(message)

    /** The model gave NaN or infinity instead of logits; the message says what gave it and what to try. */
    public class Numerics(message: String) : MimoException(message)

    /** The engine that has loaded the model cannot do this; the message says what can. */
    public class Unsupported(message: String) : MimoException(message)

    /** The engine's library failed while computing. */
    public class Inference(message: String, cause: Throwable? = null) : MimoException(message, cause)
}
