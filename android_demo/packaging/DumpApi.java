import java.io.File;
import java.util.List;
import org.jetbrains.kotlin.abi.tools.AbiFilters;
import org.jetbrains.kotlin.abi.tools.AbiTools;

/** Prints what is public in Kotlin's classes, as Kotlin's own validator of binary compatibility writes it. */
final class DumpApi {
    public static void main(String[] arguments) {
        var tools = AbiTools.Companion.getInstance(DumpApi.class.getClassLoader());
        tools.printJvmDump(System.out, List.of(new File(arguments[0])), AbiFilters.Companion.getEMPTY());
    }
}
