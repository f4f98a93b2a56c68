import java.io.BufferedReader;
import java.io.InputStreamReader;
import org.jetbrains.kotlin.cli.jvm.K2JVMCompiler;

/** Runs Kotlin's compiler for each line of the input, arguments with tabs between them, and answers with its exit code. */
final class Kotlinc {
    public static void main(String[] arguments) throws Exception {
        var input = new BufferedReader(new InputStreamReader(System.in));
        for (var line = input.readLine(); line != null; line = input.readLine()) {
            System.out.println(new K2JVMCompiler().exec(System.err, line.split("\t")).getCode());
        }
    }
}
